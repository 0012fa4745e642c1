//! What happens in a turn of the simulated driver: operations taken from the queue, connections
//! accepted, bytes received, and what of it is told.

use nix::errno::Errno;
use rand::RngExt;

use super::{Connection, Event, Operation, Simulated, Told};
use crate::io::{Buf, Done, Outcome, Token};

impl Simulated {
    /// Wake-ups that mean nothing, and readiness of connections that are gone.
    pub(super) fn make_things_up(&mut self) {
        if self.chance(self.weather.wakes) {
            self.events.push_back((Token::LISTENER, Event::Woken));
        }
        if !self.gone.is_empty() && self.chance(self.weather.stale) {
            let token = self.gone[self.random.random_range(0..self.gone.len())];
            self.events.push_back((token, Event::Readable));
        }
    }

    /// Everything goes on as far as it can; says whether anything did.
    pub(super) fn work(&mut self) -> bool {
        let moved = self.operate();
        self.accept();
        for at in 0..self.live.len() {
            self.receive(self.live[at]);
        }
        moved
    }

    /// Takes operations from the queue, as many as a turn takes. A send for which there is no room
    /// goes to its end and does not count.
    fn operate(&mut self) -> bool {
        let mut moved = 0;
        for _ in 0..self.operations.len() {
            if moved == self.weather.operations_a_turn {
                break;
            }
            let Some((token, operation)) = self.operations.pop_front() else {
                break;
            };
            let Some(connection) = self.connections.get(token) else {
                continue;
            };
            let peer = connection.peer;
            match operation {
                Operation::Send { buf, from, awaited } => {
                    if connection.closing {
                        continue;
                    }
                    let (bytes, outcome) = self.send(token, buf, from, awaited);
                    moved += usize::from(bytes > 0 || outcome.is_some());
                    let Some(outcome) = outcome else { continue };
                    if awaited || self.chance(50) {
                        self.events.push_back((token, Event::Finished(outcome)));
                    } else {
                        self.quiet.push((token, Event::Finished(outcome)));
                    }
                }
                Operation::Shutdown => {
                    self.world.borrow_mut().network.shut_down(peer);
                    moved += 1;
                }
                Operation::Close => {
                    self.close(token);
                    moved += 1;
                    self.events
                        .push_back((token, Event::Finished(Outcome::Closed)));
                }
            }
        }
        moved > 0
    }

    /// Sends what there is room for, or less: how much that was, and its end if this was it.
    pub(super) fn send(
        &mut self,
        token: Token,
        buf: Buf,
        from: usize,
        awaited: bool,
    ) -> (usize, Option<Outcome>) {
        let peer = self.connections.get(token).expect("just seen").peer;
        let rest = &buf[from..];
        let most = self.some_of(rest.len());
        let sent = self.world.borrow_mut().network.send(peer, rest, most);
        match sent {
            Err(errno) => (0, Some(Outcome::SendFailed(buf, errno.into()))),
            Ok(bytes) if from + bytes == buf.len() => (bytes, Some(Outcome::Sent(buf))),
            Ok(bytes) => {
                let from = from + bytes;
                let rest = Operation::Send { buf, from, awaited };
                self.operations.push_back((token, rest));
                (bytes, None)
            }
        }
    }

    /// All of `bytes`, or by chance only some: one at least.
    fn some_of(&mut self, bytes: usize) -> usize {
        if self.chance(self.weather.cuts_short) {
            self.random.random_range(1..=bytes)
        } else {
            bytes
        }
    }

    fn accept(&mut self) {
        while self.accepting && !self.world.borrow().network.backlog.is_empty() {
            let full = self.live.len() >= self.connections.capacity();
            if full || self.chance(self.weather.accept_fails) {
                self.accepting = false;
                self.world.borrow_mut().accepts_failed += 1;
                self.events
                    .push_back((Token::LISTENER, Event::AcceptFailed));
                return;
            }
            let world = &mut *self.world.borrow_mut();
            let peer = world.network.backlog.pop_front().expect("just seen");
            let connection = Connection {
                peer,
                admitted: false,
                receiving: false,
                noted: false,
                ended: false,
                sends: false,
                closing: false,
            };
            let Ok(token) = self.connections.insert(connection) else {
                unreachable!("there is a place");
            };
            world.live += 1;
            world.accepted += 1;
            self.live.push(token);
            self.events.push_back((token, Event::Accepted));
        }
    }

    /// Receives ahead, or takes note that there is something to receive.
    fn receive(&mut self, token: Token) {
        let ahead = self.chance(self.weather.receives_ahead);
        let Some(connection) = self.connections.get(token) else {
            return;
        };
        if !connection.receiving || connection.noted || connection.ended || connection.closing {
            return;
        }
        let peer = connection.peer;
        let network = &mut self.world.borrow_mut().network;
        if network.waiting_bytes(peer) > 0 && !ahead {
            connection.noted = true;
            self.events.push_back((token, Event::Readable));
            return;
        }
        while network.waiting_bytes(peer) > 0 {
            if self.buffers_left == 0 {
                return; // there is an event for each of them
            }
            self.buffers_left -= 1;
            let mut buffer = Vec::new();
            network.receive(peer, self.weather.buffer_bytes, &mut buffer);
            self.events.push_back((token, Event::Received(buffer)));
        }
        if network.peers[peer].has_reset {
            connection.ended = true;
            self.events.push_back((token, Event::Reset));
        } else if network.peers[peer].sent_fin {
            connection.ended = true;
            self.events.push_back((token, Event::EndOfStream));
        }
    }

    /// What there is to tell of `event`, if there still is.
    pub(super) fn tell(&mut self, token: Token, event: Event) -> Option<Told> {
        if let Event::Received(bytes) = event {
            self.buffers_left += 1;
            let connection = self.connections.get(token).filter(|it| !it.closing)?;
            let peer = connection.peer;
            self.lent = bytes;
            self.take_in(peer);
            return Some(Told::Received);
        }
        let told = match event {
            Event::Woken => Told::Other("woken", Done::Woken),
            Event::AcceptFailed => {
                let error = Errno::EMFILE.into();
                Told::Other("cannot accept", Done::AcceptFailed(error))
            }
            Event::Finished(Outcome::Closed) => {
                self.forget(token);
                Told::Other("is closed", Done::Finished(Outcome::Closed))
            }
            event => {
                let connection = self.connections.get(token).filter(|it| !it.closing)?;
                match event {
                    Event::Accepted => {
                        connection.admitted = self.admitted < self.terms.admitted;
                        let (peer, admitted) = (connection.peer, connection.admitted);
                        self.admitted += usize::from(admitted);
                        let network = &mut self.world.borrow_mut().network;
                        network.peers[peer].admitted = Some(admitted);
                        Told::Other("is accepted", Done::Accepted)
                    }
                    Event::Readable => {
                        connection.noted = false;
                        if !connection.receiving {
                            return None;
                        }
                        let peer = connection.peer;
                        let there = self.world.borrow().network.waiting_bytes(peer);
                        if there == 0 {
                            return None;
                        }
                        let most = self.some_of(there);
                        self.lent.clear();
                        self.world
                            .borrow_mut()
                            .network
                            .receive(peer, most, &mut self.lent);
                        self.take_in(peer);
                        Told::Received
                    }
                    Event::EndOfStream => Told::Other("ends its stream", Done::EndOfStream),
                    Event::Reset => Told::Other("is reset", Done::Reset(Errno::ECONNRESET.into())),
                    Event::Finished(outcome) => {
                        connection.sends = false;
                        let name = match outcome {
                            Outcome::Sent(_) => "has sent",
                            _ => "failed to send",
                        };
                        Told::Other(name, Done::Finished(outcome))
                    }
                    Event::Received(_) | Event::AcceptFailed | Event::Woken => {
                        unreachable!("told above")
                    }
                }
            }
        };
        Some(told)
    }

    /// The caller gets what is lent: is it about to hold more than it may? Once it ends, it may throw
    /// away what comes behind a last answer, which does not show from here.
    fn take_in(&mut self, peer: usize) {
        let world = &mut *self.world.borrow_mut();
        let peer = &mut world.network.peers[peer];
        peer.taken += self.lent.len();
        let most = 2 * peer.given + self.terms.held_bytes;
        assert!(
            peer.taken <= most || peer.discards() || world.told_ns.is_some(),
            "took {} bytes and gave {}: it holds too much",
            peer.taken,
            peer.given
        );
    }

    pub(super) fn sends_no_more(&mut self, token: Token) {
        if let Some(connection) = self.connections.get(token) {
            connection.sends = false;
        }
    }

    pub(super) fn close(&mut self, token: Token) {
        let peer = self.connections.get(token).expect("just seen").peer;
        self.world.borrow_mut().network.close(peer);
    }

    pub(super) fn forget(&mut self, token: Token) {
        let connection = self.connections.remove(token).expect("it is closed once");
        self.admitted -= usize::from(connection.admitted);
        self.world.borrow_mut().live -= 1;
        self.live.retain(|live| *live != token);
        self.gone.push(token);
    }
}
