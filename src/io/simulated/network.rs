//! What the simulated driver has instead of a kernel: a time that only moves when somebody waits, and
//! connections with a bounded buffer each way and a peer at the other end that follows a script.
//!
//! Knows nothing of drivers. A connection that is closed with bytes unread, or written to after it
//! was closed, is reset, and the reset takes with it what the peer had not read yet: the worst that
//! TCP allows (RFC 9293, section 3.10.7; RFC 1122, section 4.2.2.13).

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

use nix::errno::Errno;

/// A thing that a peer does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Sends these bytes, as fast as the connection takes them.
    Send(Vec<u8>),
    /// Does nothing for so many nanoseconds.
    Rest(u64),
    /// Goes on when it has received so many bytes in all.
    Await(usize),
    /// Sends FIN.
    Fin,
    /// Leaves with a reset.
    Reset,
}

/// What a peer will do.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) connects_ns: u64,
    pub(crate) steps: Vec<Step>,
    /// The most that it takes at a time; 0: it never reads.
    pub(crate) takes_bytes: usize,
    /// From one taking to the next.
    pub(crate) rests_ns: u64,
    /// The most that it may ever be sent.
    pub(crate) due_bytes: usize,
}

impl Script {
    /// Whether FIN is sent before all is answered.
    pub(crate) fn sends_fin(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Fin))
    }
}

/// The other end of a connection, and the connection.
pub(crate) struct Peer {
    pub(crate) script: Script,
    connected: bool,
    /// The step that it is at, and how many of that step's bytes are sent.
    at: usize,
    sent_of_step: usize,
    resting_until_ns: u64,
    takes_next_ns: Option<u64>,
    pub(crate) received: Vec<u8>,
    /// It has read all, and then FIN.
    pub(crate) saw_fin: bool,
    pub(crate) sent_fin: bool,
    /// It left with a reset.
    pub(crate) has_reset: bool,
    /// The server's end answered with a reset.
    pub(crate) was_reset: bool,
    to_server: VecDeque<u8>,
    to_peer: VecDeque<u8>,
    shut: bool,
    closed: bool,
    /// Bytes that the server has taken, and given.
    pub(crate) taken: usize,
    pub(crate) given: usize,
    /// It was accepted: within the limit of connections, or above it.
    pub(crate) admitted: Option<bool>,
}

/// How large the buffers of a connection are, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) to_server: usize,
    pub(crate) to_peer: usize,
}

/// All peers, and their time.
pub(crate) struct Network {
    now_ns: Rc<Cell<u64>>,
    room: Room,
    pub(crate) peers: Vec<Peer>,
    /// Who is looked at when.
    agenda: BinaryHeap<Reverse<(u64, usize)>>,
    /// Connected, and not yet accepted.
    pub(crate) backlog: VecDeque<usize>,
    listening: bool,
}

impl Network {
    pub(crate) fn new(now_ns: Rc<Cell<u64>>, room: Room, scripts: Vec<Script>) -> Self {
        let connects = scripts.iter().enumerate();
        let agenda = connects.map(|(peer, script)| Reverse((script.connects_ns, peer)));
        Self {
            now_ns,
            room,
            agenda: agenda.collect(),
            peers: scripts.into_iter().map(Peer::new).collect(),
            backlog: VecDeque::new(),
            listening: true,
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Lets time pass, up to `then_ns`.
    pub(crate) fn pass(&self, then_ns: u64) {
        self.now_ns.set(self.now_ns.get().max(then_ns));
    }

    /// When the next peer is to be looked at.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse((at_ns, _))| *at_ns)
    }

    /// Every peer does what it would have done by now.
    pub(crate) fn catch_up(&mut self) {
        while let Some(&Reverse((at_ns, number))) = self.agenda.peek() {
            if at_ns > self.now_ns() {
                return;
            }
            self.agenda.pop();
            if !std::mem::replace(&mut self.peers[number].connected, true) {
                self.connect(number);
            }
            self.take_in(number);
            self.follow(number);
        }
    }

    /// Time passes until nobody has anything more to do.
    pub(crate) fn settle(&mut self) {
        while let Some(next_ns) = self.next_ns() {
            self.pass(next_ns);
            self.catch_up();
        }
    }

    fn connect(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        if self.listening {
            self.backlog.push_back(number);
        } else {
            peer.was_reset = true;
        }
    }

    /// Nobody is accepted any more; who waits for it is reset.
    pub(crate) fn stop_listening(&mut self) {
        self.listening = false;
        for number in self.backlog.drain(..) {
            self.peers[number].was_reset = true;
        }
    }

    /// Goes on with the script, as far as it goes.
    fn follow(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        let now_ns = self.now_ns.get();
        while !peer.is_gone() && now_ns >= peer.resting_until_ns {
            match peer.script.steps.get(peer.at) {
                Some(Step::Send(bytes)) => {
                    if peer.closed {
                        peer.cut_off();
                        return;
                    }
                    let rest = &bytes[peer.sent_of_step..];
                    let room = self.room.to_server.saturating_sub(peer.to_server.len());
                    let fits = rest.len().min(room);
                    peer.to_server.extend(&rest[..fits]);
                    peer.sent_of_step += fits;
                    if peer.sent_of_step < bytes.len() {
                        return; // until the server takes some
                    }
                    peer.sent_of_step = 0;
                }
                Some(Step::Rest(time_ns)) => {
                    peer.resting_until_ns = now_ns + time_ns;
                    self.agenda.push(Reverse((now_ns + time_ns, number)));
                }
                Some(Step::Await(bytes)) => {
                    if peer.received.len() < *bytes {
                        return;
                    }
                }
                Some(Step::Fin) => peer.sent_fin = true,
                Some(Step::Reset) => {
                    peer.has_reset = true;
                    peer.to_peer.clear();
                }
                None => return,
            }
            peer.at += 1;
        }
    }

    /// The peer reads, if it is time to.
    fn take_in(&mut self, number: usize) {
        let now_ns = self.now_ns();
        let peer = &mut self.peers[number];
        if peer.takes_next_ns.is_none_or(|at_ns| at_ns > now_ns) {
            return;
        }
        peer.takes_next_ns = None;
        if peer.is_gone() {
            return;
        }
        let bytes = peer.script.takes_bytes.min(peer.to_peer.len());
        peer.received.extend(peer.to_peer.drain(..bytes));
        if peer.shut && peer.to_peer.is_empty() {
            // As most clients: it has nothing to say to who says no more.
            peer.saw_fin = true;
            peer.sent_fin = true;
            peer.at = peer.script.steps.len();
        }
        self.plan_to_take(number);
    }

    fn plan_to_take(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        let something = !peer.to_peer.is_empty() || peer.shut && !peer.saw_fin;
        if something && peer.takes_next_ns.is_none() && peer.script.takes_bytes > 0 {
            let at_ns = self.now_ns.get() + peer.script.rests_ns;
            peer.takes_next_ns = Some(at_ns);
            self.agenda.push(Reverse((at_ns, number)));
        }
    }

    // The server's end.

    /// How many bytes there are to be had.
    pub(crate) fn waiting_bytes(&self, number: usize) -> usize {
        self.peers[number].to_server.len()
    }

    /// Takes at most `bytes`, appended to `buffer`.
    pub(crate) fn receive(&mut self, number: usize, bytes: usize, buffer: &mut Vec<u8>) {
        let peer = &mut self.peers[number];
        let bytes = bytes.min(peer.to_server.len());
        buffer.extend(peer.to_server.drain(..bytes));
        self.agenda.push(Reverse((self.now_ns.get(), number)));
    }

    /// Gives the first bytes of `bytes`, at most `most`; says how many.
    pub(crate) fn send(
        &mut self,
        number: usize,
        bytes: &[u8],
        most: usize,
    ) -> Result<usize, Errno> {
        let peer = &mut self.peers[number];
        if peer.has_reset {
            return Err(Errno::ECONNRESET);
        }
        let room = self.room.to_peer.saturating_sub(peer.to_peer.len());
        let fits = bytes.len().min(room).min(most);
        peer.to_peer.extend(&bytes[..fits]);
        peer.given += fits;
        let due = peer.script.due_bytes;
        assert!(peer.given <= due, "peer {number} is sent over {due} bytes");
        self.plan_to_take(number);
        Ok(fits)
    }

    /// Sends FIN.
    pub(crate) fn shut_down(&mut self, number: usize) {
        self.peers[number].shut = true;
        self.plan_to_take(number);
    }

    /// Sends FIN, or a reset if not all was read.
    pub(crate) fn close(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        peer.shut = true;
        peer.closed = true;
        if !peer.to_server.is_empty() {
            peer.cut_off();
        }
        self.plan_to_take(number);
    }
}

impl Peer {
    fn new(script: Script) -> Self {
        Self {
            script,
            connected: false,
            at: 0,
            sent_of_step: 0,
            resting_until_ns: 0,
            takes_next_ns: None,
            received: Vec::new(),
            saw_fin: false,
            sent_fin: false,
            has_reset: false,
            was_reset: false,
            to_server: VecDeque::new(),
            to_peer: VecDeque::new(),
            shut: false,
            closed: false,
            taken: 0,
            given: 0,
            admitted: None,
        }
    }

    fn is_gone(&self) -> bool {
        self.has_reset || self.was_reset
    }

    fn cut_off(&mut self) {
        if !self.has_reset {
            self.was_reset = true;
            self.to_peer.clear();
        }
    }

    /// The server only reads on so that its last words are not lost, or has refused it.
    pub(crate) fn discards(&self) -> bool {
        self.shut || self.admitted == Some(false)
    }

    /// The server has closed, or will not hear of it.
    pub(crate) fn is_over(&self) -> bool {
        self.closed || self.was_reset && self.admitted.is_none()
    }
}
