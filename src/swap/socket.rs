//! A swapper asked over a Unix socket: a line of JSON in, a line out.
//!
//! Only its owner (and root, who may anyway) is answered: the socket has mode 0600, lies by default in
//! a directory of ours with 0700, and both ends look at who the other is (SO_PEERCRED, unix(7)). One
//! asker is heard at a time; the others wait in the kernel's queue.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

use super::{Answer, Ask, Refusal, Swapper};
use crate::control;

/// The longest line, in bytes: a path has 4096 at most.
const LINE_BYTES: u64 = 16 * 1024;
/// How long an asker may take to say what it wants.
const HEAR: Duration = Duration::from_secs(2);
/// How long an answer may take: idle priority may mean long on a busy machine.
const ANSWER: Duration = Duration::from_secs(120);

/// A socket cannot be had, or spoken over.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else could reach what lies there.
    #[error("{} {what}; name another with --socket", path.display())]
    Untrusted {
        /// The socket or its directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A system call failed.
    #[error("{} cannot be used: {error}; name another with --socket", path.display())]
    System {
        /// The socket or its directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// No server is there.
    #[error("no server listens at {}: {why}; start one, or name its socket with --socket", path.display())]
    NoServer {
        /// The socket.
        path: PathBuf,
        /// How it shows.
        why: String,
    },
}

impl SocketError {
    fn system(path: &Path) -> impl FnOnce(io::Error) -> SocketError {
        move |error| SocketError::System {
            path: path.to_owned(),
            error,
        }
    }

    fn untrusted(path: &Path, what: impl Into<String>) -> SocketError {
        SocketError::Untrusted {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

/// Where the socket of the server at `port` lies if nothing else is said: in `$XDG_RUNTIME_DIR`, or
/// below `/tmp` in a directory that belongs to the user.
pub fn default_path(port: u16) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directory = match runtime.filter(|path| path.is_absolute()) {
        Some(runtime) => runtime.join("ringlab"),
        None => PathBuf::from(format!("/tmp/ringlab-{}", geteuid())),
    };
    directory.join(format!("{port}.sock"))
}

/// Makes the directory of a default path, or finds that it is ours alone.
///
/// # Errors
/// It is not, or it cannot be made.
pub fn make_directory(path: &Path) -> Result<(), SocketError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(SocketError::system(directory)(error)),
    }
    // Not followed: a link that somebody else put there is no directory.
    let found = fs::symlink_metadata(directory).map_err(SocketError::system(directory))?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        let what = format!("is no directory of this user's but of user {}", found.uid());
        return Err(SocketError::untrusted(directory, what));
    }
    if found.mode() & 0o077 != 0 {
        let what = "is open to other users; `chmod 700` it";
        return Err(SocketError::untrusted(directory, what));
    }
    Ok(())
}

/// A socket that is answered until the server ends; then it is gone.
pub struct Listening {
    path: PathBuf,
    /// The file that was made: another server's may lie there by then.
    file: (u64, u64),
}

impl Drop for Listening {
    fn drop(&mut self) {
        if file_of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Answers at `path`, on a thread of its own. A dead server's socket there is taken over.
///
/// # Errors
/// A living server has it, it is not ours, or it cannot be made.
pub fn listen(path: &Path, swapper: Swapper) -> Result<Listening, SocketError> {
    check_free(path)?;
    // Made aside, so that it never lies there with another mode.
    let aside = path.with_extension(format!("{}", std::process::id()));
    let listener = UnixListener::bind(&aside).map_err(SocketError::system(path))?;
    let file = fs::set_permissions(&aside, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&aside, path))
        .and_then(|()| file_of(path));
    let file = file.map_err(|error| {
        let _ = fs::remove_file(&aside);
        SocketError::system(path)(error)
    })?;
    let listening = Listening {
        path: path.to_owned(),
        file,
    };
    control::helper(control::HELPERS[3], move || {
        for asker in listener.incoming() {
            match asker.and_then(|asker| answer(asker, &swapper)) {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, "an asker on the socket was not answered");
                    // Without descriptors the next accept fails at once.
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    });
    Ok(listening)
}

fn check_free(path: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SocketError::system(path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::untrusted(path, "is there and is no socket"));
    }
    if found.uid() != geteuid().as_raw() {
        let what = format!("belongs to user {}", found.uid());
        return Err(SocketError::untrusted(path, what));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::untrusted(path, "is another server's")),
        Err(_) => Ok(()),
    }
}

/// Whether the other end is a process of this user's, or root's.
fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}

fn answer(stream: UnixStream, swapper: &Swapper) -> io::Result<()> {
    stream.set_read_timeout(Some(HEAR))?;
    stream.set_write_timeout(Some(HEAR))?;
    if !is_ours(&stream)? {
        return Err(io::Error::other("it is another user's"));
    }
    let mut line = String::new();
    BufReader::new((&stream).take(LINE_BYTES)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => swapper.ask(ask),
        Err(error) => Err(Refusal(format!("this server does not understand: {error}"))),
    };
    let mut line = serde_json::to_string(&answer)?;
    line.push('\n');
    (&stream).write_all(line.as_bytes())
}

/// Asks the server whose socket lies at `path`.
///
/// # Errors
/// No server answers there, or one that is not ours.
pub fn ask(path: &Path, ask: &Ask) -> Result<Result<Answer, Refusal>, SocketError> {
    let no_server = |why: String| SocketError::NoServer {
        path: path.to_owned(),
        why,
    };
    let found = fs::symlink_metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => no_server("there is no such file".to_owned()),
        _ => SocketError::system(path)(error),
    })?;
    if !found.file_type().is_socket() {
        return Err(SocketError::untrusted(path, "is no socket"));
    }
    if found.uid() != geteuid().as_raw() {
        let what = format!("belongs to user {}", found.uid());
        return Err(SocketError::untrusted(path, what));
    }
    let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => no_server("the server that made it is gone".to_owned()),
        _ => SocketError::system(path)(error),
    })?;
    let spoken = speak(&stream, ask).map_err(SocketError::system(path))?;
    serde_json::from_str(&spoken).map_err(|error| no_server(format!("it answers oddly: {error}")))
}

fn speak(stream: &UnixStream, ask: &Ask) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(HEAR))?;
    if !is_ours(stream)? {
        return Err(io::Error::other("the server is another user's"));
    }
    let mut line = serde_json::to_string(ask)?;
    line.push('\n');
    (&*stream).write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}
