//! A session's way from received bytes to answers: whole requests are answered where they lie, and what
//! comes in parts is carried until it is whole. Within the bounds on both: see the head of `session`.

use super::{Context, Session, State};
use crate::http::{self, HeaderStorage, Step};
use crate::io::{Buf, Token};
use crate::measure::probe::{Probe, Stage};
use crate::offload::Started;

/// Answers gathered before the session stops decoding. One answer more may lie above it.
pub(super) const OUT_BYTES: usize = 64 * 1024;
/// Bytes carried, while a handler elsewhere is awaited, before the session stops receiving. One
/// receive more may lie above it.
const AWAITING_BYTES: usize = 64 * 1024;
/// What became of a request.
enum Answered {
    /// It is answered and the connection stays.
    Stays,
    /// It is answered and the connection ends.
    Ends,
    /// The answer comes later.
    Later(http::Reply),
}

impl Session {
    /// Answers every whole request in what is carried and `bytes`; says whether there was one.
    pub(super) fn decode<P: Probe>(&mut self, bytes: &[u8], context: &mut Context<P>) -> bool {
        let mut answered = false;
        let mut go_on = true;
        if self.carry.is_empty() {
            go_on = self.decode_lent(bytes, context, &mut answered);
        } else {
            self.carry_on(bytes, context);
        }
        while go_on && !self.carry.is_empty() {
            go_on = self.decode_carried(context, &mut answered);
        }
        answered
    }

    /// Answers the requests in `rest` where they lie, and carries what is left over. Says whether
    /// that is to be looked at at once.
    fn decode_lent<P: Probe>(
        &mut self,
        mut rest: &[u8],
        context: &mut Context<P>,
        answered: &mut bool,
    ) -> bool {
        while !rest.is_empty() {
            if self.is_held() {
                self.carry_over(rest, context);
                return false;
            }
            let mut storage = HeaderStorage::new();
            let step = P::within(Stage::Http, || {
                self.decoder.decode(rest, &mut storage, &context.limits)
            });
            match step {
                Step::Request {
                    request,
                    consumed,
                    left,
                } => {
                    *answered = true;
                    let last = self.draining && left == 0;
                    let outcome = answer(self.owner, &request, last, &mut self.out, context);
                    if !self.goes_on(outcome, left) {
                        return false;
                    }
                    rest = &rest[consumed..];
                }
                Step::Incomplete { send_continue } => {
                    self.incomplete(send_continue, context);
                    self.carry_over(rest, context);
                    return false;
                }
                Step::Carry => {
                    self.carry_over(rest, context);
                    return true;
                }
                Step::Reject(reject) => {
                    self.reject(reject, context);
                    return false;
                }
            }
        }
        false
    }

    /// Goes on with the request that came in parts, and with what follows it. Says whether what is
    /// carried then is to be looked at at once.
    fn decode_carried<P: Probe>(&mut self, context: &mut Context<P>, answered: &mut bool) -> bool {
        if self.is_held() {
            return false;
        }
        let mut storage = HeaderStorage::new();
        let step = P::within(Stage::Http, || {
            self.decoder
                .decode_carried(&mut self.carry, &mut storage, &context.limits)
        });
        match step {
            Step::Request {
                request,
                consumed,
                left,
            } => {
                *answered = true;
                let last = self.draining && left == 0;
                let outcome = answer(self.owner, &request, last, &mut self.out, context);
                let carried = std::mem::take(&mut self.carry);
                let go_on = self.goes_on(outcome, left)
                    && self.decode_lent(&carried[consumed..], context, answered);
                context.pool.put(carried);
                go_on
            }
            Step::Incomplete { send_continue } => {
                self.incomplete(send_continue, context);
                false
            }
            Step::Carry => unreachable!("these bytes are carried"),
            Step::Reject(reject) => {
                self.reject(reject, context);
                false
            }
        }
    }

    /// Takes note of what became of a request that `left` bytes follow; says whether the connection
    /// goes on.
    fn goes_on(&mut self, answered: Answered, left: usize) -> bool {
        match answered {
            Answered::Stays => true,
            Answered::Ends => {
                // Who was not asked to end may be sending: what nobody reads would reset the answer.
                let linger = left > 0 || self.draining;
                self.state = State::Finishing { linger };
                false
            }
            Answered::Later(reply) => {
                self.awaiting = Some(reply);
                true
            }
        }
    }

    /// Whether decoding must stop: answers wait to be taken, or a handler is awaited.
    fn is_held(&mut self) -> bool {
        self.stalled = self.out.len() >= OUT_BYTES || self.carries_much();
        self.stalled || self.is_awaiting()
    }

    /// Enough has come for as long as the handler is awaited.
    pub(super) fn carries_much(&self) -> bool {
        self.is_awaiting() && self.carry.len() >= AWAITING_BYTES
    }

    fn incomplete<P: Probe>(&mut self, send_continue: bool, context: &mut Context<P>) {
        if send_continue {
            self.own_out(context);
            self.out.extend_from_slice(http::CONTINUE);
        }
    }

    pub(super) fn carry_over<P: Probe>(&mut self, bytes: &[u8], context: &mut Context<P>) {
        if self.carry.capacity() == 0 {
            self.carry = context.pool.take();
        }
        self.carry_on(bytes, context);
    }

    /// Puts `bytes` behind what is carried already.
    fn carry_on<P: Probe>(&mut self, bytes: &[u8], context: &Context<P>) {
        context.served.bytes_copied.add(bytes.len() as u64);
        P::within(Stage::Copy, || self.carry.extend_from_slice(bytes));
    }

    pub(super) fn drop_carry<P: Probe>(&mut self, context: &mut Context<P>) {
        context.pool.put(std::mem::take(&mut self.carry));
    }
}

pub(super) fn own<P: Probe>(out: &mut Buf, context: &mut Context<P>) {
    if out.capacity() == 0 {
        *out = context.pool.take();
    }
}

/// Has one request answered into `out`. `last`: the connection ends with it.
fn answer<P: Probe>(
    owner: Token,
    request: &http::Request<'_, '_>,
    last: bool,
    out: &mut Buf,
    context: &mut Context<P>,
) -> Answered {
    context.take_over();
    own(out, context);
    let mut reply = request.reply();
    reply.keep_alive &= !last;
    let started = context
        .offload
        .start(owner, request, reply, &context.date, out, &context.served);
    match started {
        Started::Later => Answered::Later(request.reply()),
        Started::Answered => {
            context.served.answered.add(1);
            if reply.keep_alive {
                Answered::Stays
            } else {
                Answered::Ends
            }
        }
    }
}
