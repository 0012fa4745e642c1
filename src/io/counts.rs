//! What a driver did, counted where it is done: system calls by name, and the ring's own work,
//! which is not system calls.

crate::measure::counter::counters! {
    /// What one thread's driver did, as it grows.
    Counts, CountsSnapshot {
    /// accept4(2).
    accept4,
    /// recv(2).
    recv,
    /// send(2).
    send,
    /// epoll_wait(2).
    epoll_wait,
    /// epoll_ctl(2).
    epoll_ctl,
    /// io_uring_enter(2).
    io_uring_enter,
    /// poll(2).
    poll,
    /// read(2), of an eventfd or a timerfd.
    read,
    /// shutdown(2).
    shutdown,
    /// getsockopt(2): whether a stream that was ended from here may go on.
    getsockopt,
    /// close(2) of a connection.
    close,
    /// timerfd_settime(2).
    timerfd_settime,
    /// timer_settime(2).
    timer_settime,
    /// fcntl(2).
    fcntl,
    /// clone3(2): a thread for a connection, or for a request.
    clone3,
    /// futex(2) between a thread and its workers: waking one for a request, and the worker's sleep
    /// before it. What locks ask for that several threads want is not in it: the standard library
    /// does not tell.
    futex,
    /// write(2) to an eventfd: another thread wakes this one.
    write,
    /// tgkill(2): likewise, by a signal.
    tgkill,
    /// io_uring_register(2): likewise, by a message into its ring.
    io_uring_register,
    /// Submission queue entries: work handed to the ring, not system calls.
    sqe,
    /// Completion queue entries.
    cqe,
    /// Multishot receives armed again after they ended with the stream still open.
    rearmed,
    /// Receives that found the ring of provided buffers empty.
    enobufs,
    /// Operations that the kernel hands to its own threads.
    io_wq,
    /// Signals that did not fit the queue, so that every socket was asked instead.
    signals_lost,
    /// Calls of io_uring_enter that only made room: a turn had more entries than the queue holds.
    sq_full,
    /// Turns in which the kernel had completions for which the queue had no room.
    cq_overflow,
    }
}

/// What is counted here and is no system call.
const NOT_CALLS: [&str; 8] = [
    "sqe",
    "cqe",
    "rearmed",
    "enobufs",
    "io_wq",
    "sq_full",
    "cq_overflow",
    "signals_lost",
];

impl CountsSnapshot {
    /// Whether the figure of that name counts system calls.
    pub fn is_system_call(name: &str) -> bool {
        !NOT_CALLS.contains(&name)
    }

    /// All system calls together.
    pub fn system_calls(&self) -> u64 {
        let calls = self
            .named()
            .into_iter()
            .filter(|(name, _)| Self::is_system_call(name));
        calls.map(|(_, value)| value).sum()
    }
}
