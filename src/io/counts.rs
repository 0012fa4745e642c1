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
    /// close(2) of a connection.
    close,
    /// timerfd_settime(2).
    timerfd_settime,
    /// clone3(2): a thread for a connection.
    clone3,
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
    /// Turns in which the kernel had completions for which the queue had no room.
    cq_overflow,
    }
}

impl CountsSnapshot {
    /// All system calls together.
    pub fn system_calls(&self) -> u64 {
        self.accept4
            + self.recv
            + self.send
            + self.epoll_wait
            + self.epoll_ctl
            + self.io_uring_enter
            + self.poll
            + self.read
            + self.shutdown
            + self.close
            + self.timerfd_settime
            + self.clone3
    }
}
