//! The kernel's refusals, made: system calls of a program fail as they would on another machine, or
//! under another's filter.
//!
//! Either for good, by a filter alone ([`refuse`]), or one by one, as a rule says ([`answer`]): the
//! filter then has the kernel ask this process about each call (seccomp_unotify(2), Linux 5.5), and a
//! thread here answers in its place. Operations of a ring are no system calls, and pass both.

use std::ffi::CString;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Has the kernel answer `errno` to that system call, in the program and whatever it starts.
pub fn refuse(command: &mut Command, call: libc::c_long, errno: i32) {
    refuse_where(command, call, Vec::new(), errno);
}

/// The same, only where the call's second argument, an `int`, is `operation`.
pub fn refuse_operation(command: &mut Command, call: libc::c_long, operation: u32, errno: i32) {
    let (argument, length) = (1, SeccompCmpArgLen::Dword);
    let is_it = SeccompCondition::new(argument, length, SeccompCmpOp::Eq, u64::from(operation));
    let rule = SeccompRule::new(vec![is_it.expect("there is such an argument")]);
    refuse_where(
        command,
        call,
        vec![rule.expect("a rule of one condition")],
        errno,
    );
}

/// Where one of `rules` holds; without any, always.
fn refuse_where(command: &mut Command, call: libc::c_long, rules: Vec<SeccompRule>, errno: i32) {
    let architecture = std::env::consts::ARCH
        .try_into()
        .expect("it knows this one");
    let filter = SeccompFilter::new(
        [(call, rules)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        architecture,
    );
    let filter: BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("a filter of one call");
    // SAFETY: between fork and exec this makes two system calls, prctl and seccomp, and allocates
    // nothing unless they fail.
    unsafe {
        command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(io::Error::other))
    };
}

/// Starts the program with a limit of the kernel's, soft and hard.
pub fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    // SAFETY: between fork and exec this makes one system call, on a value of its own.
    unsafe {
        command.pre_exec(move || {
            Errno::result(libc::setrlimit(resource, &raw const limit))?;
            Ok(())
        })
    };
}

/// Has the program, and nobody else, find `file` where the file at `place` is: a sysctl's, for one. It
/// has mounts of its own for that, and cannot be started where it may not (unshare(2)).
pub fn put_over(command: &mut Command, place: &str, file: &str) {
    let [root, place, file] =
        ["/", place, file].map(|path| CString::new(path).expect("a path has no zero byte"));
    // Whoever is not root is given the right to mount by a user namespace.
    let user = if nix::unistd::geteuid().is_root() {
        0
    } else {
        libc::CLONE_NEWUSER
    };
    let mount = move |from: *const libc::c_char, to: &CString, flags| {
        // SAFETY: paths end with a zero byte or are null where none is needed, and the kernel reads
        // them only.
        let done = unsafe { libc::mount(from, to.as_ptr(), ptr::null(), flags, ptr::null()) };
        Errno::result(done).map(drop)
    };
    // SAFETY: between fork and exec this makes three system calls, on values of its own.
    unsafe {
        command.pre_exec(move || {
            Errno::result(libc::unshare(libc::CLONE_NEWNS | user))?;
            mount(ptr::null(), &root, libc::MS_REC | libc::MS_PRIVATE)?;
            mount(file.as_ptr(), &place, libc::MS_BIND)?;
            Ok(())
        })
    };
}

/// Asks `rule` about each of those system calls of the program, from every thread of it: it fails
/// with what the rule says, or goes to the kernel. Each question costs a switch to this process and
/// back. Also returns at the program's end.
pub fn answer(
    command: &mut Command,
    calls: &[libc::c_long],
    mut rule: impl FnMut(libc::c_long) -> Option<Errno> + Send + 'static,
) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("two descriptors are free");
    let filter = asking(calls);
    // SAFETY: between fork and exec this makes three system calls, prctl, seccomp and sendmsg, and
    // allocates nothing.
    unsafe { command.pre_exec(move || hand_over(theirs.as_raw_fd(), &filter)) };
    thread::spawn(move || {
        let Ok(questions) = take_over(&ours) else {
            return; // the program did not start, and whoever started it knows
        };
        while let Ok(question) = next_question(&questions) {
            let failed = rule(libc::c_long::from(question.data.nr));
            reply(&questions, question.id, failed);
        }
    });
}

/// The filter that has the kernel ask about `calls`. It looks at no architecture: what it is for was
/// built with this test.
fn asking(calls: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let step = |code: u32, jt: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, number)];
    for (nth, &call) in calls.iter().enumerate() {
        let to_the_end = (calls.len() - nth) as u8;
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        filter.push(step(equal, to_the_end, call as u32));
    }
    let answer = libc::BPF_RET | libc::BPF_K;
    filter.push(step(answer, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(step(answer, 0, libc::SECCOMP_RET_USER_NOTIF));
    filter
}

/// Room for the one control message that passes a descriptor, aligned as its header.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// A message of one byte, with `control` beside it.
fn message(byte: &mut libc::iovec, control: &mut Control, length: usize) -> libc::msghdr {
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = byte;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = length;
    message
}

/// In the child: puts the filter in force, and sends the descriptor for its questions to `to`.
fn hand_over(to: RawFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: numbers alone.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the kernel copies the program, which `filter` holds, during the call.
    let questions = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    })? as RawFd;
    let mut byte = [0u8];
    let mut bytes = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: CMSG_SPACE and CMSG_LEN only calculate. The first header lies in `control`, which has
    // room for it and one descriptor, and the message lives until sendmsg has returned.
    Errno::result(unsafe {
        let room = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
        let message = message(&mut bytes, &mut control, room);
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(questions);
        libc::sendmsg(to, &raw const message, libc::MSG_NOSIGNAL)
    })?;
    Ok(())
}

/// The descriptor that the child sent.
fn take_over(from: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0u8];
    let mut bytes = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    let length = size_of::<Control>();
    let mut message = message(&mut bytes, &mut control, length);
    // SAFETY: the message and what it points to live until recvmsg has returned.
    let got = Errno::result(unsafe {
        libc::recvmsg(from.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
    })?;
    // SAFETY: the kernel wrote the control message; a first header, if there is one, is whole.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if got == 0 || header.is_null() {
        return Err(Errno::ENODATA.into());
    }
    // SAFETY: nobody else sends on this pair, and what is sent is one descriptor, which is ours now.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()) })
}

/// Waits for the next call; an error once no thread of the program is left.
fn next_question(questions: &OwnedFd) -> io::Result<libc::seccomp_notif> {
    loop {
        let mut ready = libc::pollfd {
            fd: questions.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, for the length of the call.
        Errno::result(unsafe { libc::poll(&raw mut ready, 1, -1) })?;
        if ready.revents & libc::POLLIN == 0 {
            return Err(Errno::ESRCH.into());
        }
        // SAFETY: all zeros is what the kernel asks for.
        let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: it writes one seccomp_notif.
        let asked = Errno::result(unsafe {
            libc::ioctl(
                questions.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut question,
            )
        });
        match asked {
            Ok(_) => return Ok(question),
            // Who asked was interrupted by a signal meanwhile.
            Err(Errno::ENOENT | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn reply(questions: &OwnedFd, id: u64, failed: Option<Errno>) {
    let reply = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: failed.map_or(0, |errno| -(errno as i32)),
        flags: match failed {
            Some(_) => 0,
            None => libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        },
    };
    // SAFETY: it reads one seccomp_notif_resp. It fails if who asked is gone, and nobody minds.
    unsafe {
        libc::ioctl(
            questions.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const reply,
        )
    };
}

/// Whether the kernel lets a filter ask; says so if not, as within another's filter.
pub fn can_be_asked() -> bool {
    let mut command = Command::new("true");
    answer(&mut command, &[libc::SYS_accept4], |_| None);
    let can = command.status().is_ok();
    if !can {
        crate::say("skipped: refusals one by one: the kernel lets no filter ask here\n");
    }
    can
}
