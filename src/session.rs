//! One connection's life: bytes in, operations out; no sockets and no clock.
//!
//! Three groups of verbs. What came: [`Session::absorb`], [`Session::end_of_stream`],
//! [`Session::sent`], [`Session::broken`], [`Session::closed`]. What changed: [`Session::expire`],
//! [`Session::drain`], [`Session::end_idle`]. What goes: [`Session::next_op`], asked until it says `None`. Whoever owns the
//! connection, an event loop or a thread, does no more than carry these to and fro.
//!
//! Requests are answered in the order in which they came. While an answer is being sent, later ones
//! gather; when they reach [`requests::OUT_BYTES`], reading pauses until the client has taken some, so that
//! neither a fast sender nor a slow reader makes a session grow.
//!
//! A request whose handler runs elsewhere is awaited before the next is decoded, so answers leave in
//! order and a connection has one request out at most. What comes meanwhile is carried, up to the
//! same bound. A client that ends its stream while it is awaited is taken to have left.

mod context;
mod requests;

pub use context::{Context, Timeouts};

use crate::http::{self, Decoder, Reject, Waiting};
use crate::io::{Buf, Op, Token};
use crate::measure::probe::{Probe, Stage};
use crate::offload::{self, Job};
use crate::sandbox::{Answer, Failure};

/// Silence, in sweeps, after which a client in the middle of something is looked at again.
const QUIET_SWEEPS: u8 = 2;
/// A time that does not come.
const NEVER_MS: u64 = u64::MAX;

/// One connection.
#[derive(Debug)]
pub struct Session {
    owner: Token,
    decoder: Decoder,
    /// Received and not yet decoded; empty between requests.
    carry: Buf,
    /// Answers not yet handed over.
    out: Buf,
    /// A buffer of answers is on its way.
    sending: bool,
    /// Receiving was asked for and not paused since.
    receiving: bool,
    /// Sweeps since the last bytes came, as far as they matter.
    quiet_sweeps: u8,
    /// Decoding and receiving rest until `out` has gone, or the awaited answer has come.
    stalled: bool,
    /// A handler elsewhere works on a request, which is to be answered like this.
    awaiting: Option<http::Reply>,
    /// The client sends no more.
    ended: bool,
    /// The server is going down: the last answer says that it is over.
    draining: bool,
    state: State,
    /// What the deadline is for. A new one is set only when this changes.
    waits_for: Wait,
    deadline_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more is decoded; when the answers are sent, it ends.
    Finishing {
        linger: bool,
    },
    /// FIN is sent; what still comes is read and thrown away.
    Lingering,
    /// Close was asked for.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Request,
    Head,
    Body,
    Handler,
    Send,
    Linger,
}

impl Session {
    /// A connection that was just accepted, which whoever owns it calls `owner`.
    pub fn new<P: Probe>(owner: Token, context: &Context<P>) -> Self {
        Self {
            owner,
            decoder: Decoder::new(),
            carry: Buf::new(),
            out: Buf::new(),
            sending: false,
            receiving: false,
            quiet_sweeps: 0,
            stalled: false,
            awaiting: None,
            ended: false,
            draining: false,
            state: State::Open,
            waits_for: Wait::Request,
            deadline_ms: context
                .now_ms
                .saturating_add(context.timeouts.keep_alive_ms),
        }
    }

    /// A connection over the limit: it is told so, and closed.
    pub fn refused<P: Probe>(owner: Token, context: &mut Context<P>) -> Self {
        let mut session = Self::new(owner, context);
        session.reject(Reject::TOO_MANY_CONNECTIONS, context);
        session.set_deadline(false, context);
        session
    }

    /// Bytes came.
    pub fn absorb<P: Probe>(&mut self, bytes: &[u8], context: &mut Context<P>) {
        context.served.bytes_in.add(bytes.len() as u64);
        self.quiet_sweeps = 0;
        if self.state != State::Open {
            return;
        }
        if self.stalled || self.is_awaiting() {
            self.carry_over(bytes, context);
            // What it is stalled by may be on its way to the client: it stays so until that is gone.
            self.stalled |= self.carries_much();
            return;
        }
        let answered = self.decode(bytes, context);
        // Asking for more does not renew the time to take what is being sent.
        self.set_deadline(answered && !self.sending, context);
    }

    /// The client sends no more; it may still read.
    pub fn end_of_stream<P: Probe>(&mut self, context: &mut Context<P>) {
        self.ended = true;
        self.stop_awaiting(context);
        if self.state == State::Lingering {
            self.state = State::Finishing { linger: false };
        }
    }

    /// The awaited answer has come.
    pub fn finish<P: Probe>(&mut self, job: &Job, context: &mut Context<P>) {
        if let Some(reply) = self.awaiting.take() {
            self.answer_late(job.outcome(), reply, context);
        }
    }

    /// The server ends now: an answer that is still awaited is not to be had any more.
    pub fn give_up<P: Probe>(&mut self, context: &mut Context<P>) {
        if let Some(mut reply) = self.awaiting.take() {
            context.offload.cancel(self.owner);
            reply.keep_alive = false;
            self.answer_late(Err(Failure::ShuttingDown), reply, context);
        }
    }

    fn answer_late<P: Probe>(
        &mut self,
        outcome: Result<Answer<'_>, Failure>,
        mut reply: http::Reply,
        context: &mut Context<P>,
    ) {
        reply.keep_alive &= !(self.draining && self.carry.is_empty());
        context.served.answered.add(1);
        self.own_out(context);
        P::within(Stage::Http, || {
            offload::encode(
                outcome,
                reply,
                &context.date,
                &mut self.out,
                &context.served,
            );
        });
        if reply.keep_alive {
            self.stalled = false;
            self.decode(&[], context);
        } else {
            let linger = !self.carry.is_empty();
            self.state = State::Finishing { linger };
            self.drop_carry(context);
        }
        self.set_deadline(true, context);
    }

    /// The buffer of the last `Op::Send` is gone; here it is back.
    pub fn sent<P: Probe>(&mut self, buf: Buf, context: &mut Context<P>) {
        context.served.bytes_out.add(buf.len() as u64);
        context.pool.put(buf);
        self.sending = false;
        if self.stalled && !self.is_awaiting() && self.state == State::Open {
            self.stalled = false;
            self.decode(&[], context);
        }
        self.set_deadline(true, context);
    }

    /// The connection is of no more use.
    pub fn broken<P: Probe>(&mut self, context: &mut Context<P>) {
        self.stop_awaiting(context);
        self.sending = false;
        self.out.clear();
        self.state = State::Finishing { linger: false };
    }

    /// The connection is gone: its buffers are free again.
    pub fn closed<P: Probe>(mut self, context: &mut Context<P>) {
        self.stop_awaiting(context);
        context.pool.put(self.carry);
        context.pool.put(self.out);
    }

    /// When [`Session::expire`] should be called, CLOCK_MONOTONIC in milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// The deadline has passed.
    pub fn expire<P: Probe>(&mut self, context: &mut Context<P>) {
        if self.state == State::Closed {
            return;
        }
        context.served.timed_out.add(1);
        match self.waits_for {
            Wait::Head => self.reject(Reject::HEAD_TIMEOUT, context),
            Wait::Body => self.reject(Reject::BODY_TIMEOUT, context),
            Wait::Request | Wait::Handler | Wait::Send | Wait::Linger => self.broken(context),
        }
        self.set_deadline(false, context);
    }

    /// Another sweep: a client that has fallen silent in the middle of something is looked at again,
    /// once, since it may have left and nobody told.
    ///
    /// Seen on Linux 6.18: a multishot receive armed when a reset was there already, behind many bytes,
    /// brought bytes and never the reset, and asked for anew it did. Why is inferred; the kernel's
    /// source was not read: told of both together, it takes what 32 buffers hold and never looks again.
    pub fn swept(&mut self) {
        if self.quiet_sweeps < QUIET_SWEEPS && self.receiving && !self.is_idle() {
            self.quiet_sweeps += 1;
            self.receiving = self.quiet_sweeps < QUIET_SWEEPS;
        }
    }

    /// The server goes down: what was received is answered, and the last answer says that the connection
    /// ends.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The server goes down, and nothing more has come: the connection ends if it is idle.
    pub fn end_idle(&mut self) {
        if self.is_idle() {
            self.state = State::Finishing { linger: false };
        }
    }

    /// The connection has nothing of a request and nothing to send.
    pub fn is_idle(&self) -> bool {
        self.state == State::Open
            && !self.sending
            && self.out.is_empty()
            && !self.is_awaiting()
            && self.decoder.waiting_for() == Waiting::Request
    }

    /// A handler elsewhere works on a request of this connection.
    pub fn is_awaiting(&self) -> bool {
        self.awaiting.is_some()
    }

    /// What to ask of the driver next. `Send` is asked only when no other is under way, and nothing
    /// is asked after `Close`.
    pub fn next_op(&mut self) -> Option<Op> {
        if !self.out.is_empty() && !self.sending {
            self.sending = true;
            return Some(Op::Send {
                buf: std::mem::take(&mut self.out),
                awaited: self.stalled || self.draining || self.ended || self.state != State::Open,
            });
        }
        if self.state == State::Open && !self.stalled && self.ended {
            self.state = State::Finishing { linger: false };
        }
        match self.state {
            State::Open if self.stalled == self.receiving => {
                self.receiving = !self.stalled;
                Some(if self.receiving {
                    Op::Receive
                } else {
                    Op::Pause
                })
            }
            State::Finishing { .. } if self.sending => None,
            State::Finishing { linger: true } if !self.ended => {
                self.state = State::Lingering;
                Some(Op::Shutdown)
            }
            State::Finishing { .. } => {
                self.state = State::Closed;
                Some(Op::Close)
            }
            State::Lingering if !self.receiving => {
                self.receiving = true;
                Some(Op::Receive)
            }
            State::Open | State::Lingering | State::Closed => None,
        }
    }

    /// The client has left: the work is in vain.
    fn stop_awaiting<P: Probe>(&mut self, context: &mut Context<P>) {
        if self.awaiting.take().is_some() {
            context.served.cancelled.add(1);
            context.offload.cancel(self.owner);
        }
    }

    fn reject<P: Probe>(&mut self, reject: Reject, context: &mut Context<P>) {
        context.served.reject(&reject);
        self.own_out(context);
        http::encode_reject(
            &mut self.out,
            &context.date,
            &reject,
            self.decoder.head_only(),
        );
        self.state = State::Finishing { linger: true };
        self.drop_carry(context);
    }

    fn own_out<P: Probe>(&mut self, context: &mut Context<P>) {
        requests::own(&mut self.out, context);
    }

    /// Sets the deadline if the session waits for something else than before, or has just
    /// `answered` a request.
    fn set_deadline<P: Probe>(&mut self, answered: bool, context: &Context<P>) {
        let sending = self.sending || !self.out.is_empty();
        let waits_for = match (self.state, self.decoder.waiting_for()) {
            (State::Lingering | State::Finishing { linger: true }, _) if !sending => Wait::Linger,
            (State::Closed | State::Finishing { .. }, _) => Wait::Send,
            _ if sending => Wait::Send,
            _ if self.is_awaiting() => Wait::Handler,
            (_, Waiting::Request) => Wait::Request,
            (_, Waiting::Head) => Wait::Head,
            (_, Waiting::Body) => Wait::Body,
        };
        if waits_for == self.waits_for && !answered {
            return;
        }
        self.waits_for = waits_for;
        let timeouts = &context.timeouts;
        let timeout_ms = match waits_for {
            Wait::Request => timeouts.keep_alive_ms,
            Wait::Head => timeouts.head_ms,
            Wait::Body => timeouts.body_ms,
            // A handler has limits of its own; the client has none while it waits for one.
            Wait::Handler => NEVER_MS,
            Wait::Send => timeouts.send_ms,
            Wait::Linger => timeouts.linger_ms,
        };
        self.deadline_ms = context.now_ms.saturating_add(timeout_ms);
    }
}
