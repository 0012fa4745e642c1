//! Several routes: each request goes to the policy of its route, and what has no route is a 404.
//!
//! A server with one handler for everything has its policy without this around it.

use std::sync::Arc;

use super::{Job, Offload, Started, encode};
use crate::http;
use crate::io::{Buf, Token};
use crate::routes::Table;
use crate::sandbox::{Failure, ShardSandbox};
use crate::served::Served;

/// The policies of all routes.
pub struct Routed {
    table: Table,
    /// Each route's, by its number.
    policies: Vec<Box<dyn Offload>>,
    /// Who brought the last answer, and so may have the job again.
    brought: usize,
    /// Who goes on next, if it has anything to go on with.
    next: usize,
}

impl Routed {
    /// Routes by `table`, whose numbers are places in `policies`.
    pub fn new(table: Table, policies: Vec<Box<dyn Offload>>) -> Self {
        Self {
            table,
            policies,
            brought: 0,
            next: 0,
        }
    }
}

impl Offload for Routed {
    fn start(
        &mut self,
        owner: Token,
        request: &http::Request<'_, '_>,
        reply: http::Reply,
        date: &[u8; 29],
        out: &mut Buf,
        served: &Served,
    ) -> Started {
        match self.table.find(request.target) {
            Some(route) => self.policies[route].start(owner, request, reply, date, out, served),
            None => {
                encode(Err(Failure::NoRoute), reply, date, out, served);
                Started::Answered
            }
        }
    }

    /// One of them in a turn, in turn: however many routes have half-done work, events wait for one
    /// slice.
    fn go_on(&mut self, served: &Served) -> bool {
        let routes = self.policies.len();
        for route in (0..routes).map(|nth| (self.next + nth) % routes) {
            if self.policies[route].go_on(served) {
                self.next = (route + 1) % routes;
                return true;
            }
        }
        false
    }

    fn next(&mut self, served: &Served) -> Option<Job> {
        let mut policies = self.policies.iter_mut().enumerate();
        let (brought, job) =
            policies.find_map(|(route, policy)| Some((route, policy.next(served)?)))?;
        self.brought = brought;
        Some(job)
    }

    /// One job is as good as another: where several are out, a route may get another's.
    fn recycle(&mut self, job: Job) {
        self.policies[self.brought].recycle(job);
    }

    /// An owner has one request out at most, so only one of them knows it.
    fn cancel(&mut self, owner: Token) {
        for policy in &mut self.policies {
            policy.cancel(owner);
        }
    }

    /// All of them are asked, so that every one that has requests out wakes the thread.
    fn may_sleep(&mut self) -> bool {
        let awake = self.policies.iter_mut().filter_map(|policy| {
            let may_sleep = policy.may_sleep();
            (!may_sleep).then_some(())
        });
        awake.count() == 0
    }

    fn rest(&mut self) {
        for policy in &mut self.policies {
            policy.rest();
        }
    }

    fn replace(&mut self, route: usize, handler: &Arc<ShardSandbox>) {
        self.policies[route].replace(route, handler);
    }
}
