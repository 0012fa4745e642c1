//! What a server did for its clients, counted by the thread that did it.

use crate::http::Reject;
use crate::measure::counter::Counter;
use crate::sandbox::Failure;

crate::measure::counter::counters! {
    /// The figures of one thread, as they grow.
    Served, ServedSnapshot {
        /// Connections accepted, refused ones among them.
        accepted,
        /// Connections refused with 503 because the limit was reached.
        refused,
        /// Connections ended, by either side.
        closed,
        /// Requests answered by the handler, failed ones among them.
        answered,
        /// Of those, answered 5xx, 404 or 413 because the handler failed, or there is none for the
        /// path, or it may not have the request.
        failed,
        /// Of those, because the handler used up its CPU time.
        deadline_passed,
        /// Of those, because it did what WebAssembly forbids.
        trapped,
        /// Of those, because it used up its stack.
        stack_overflowed,
        /// Of those, because it trapped after it was refused memory.
        memory_refused,
        /// Of those, because it trapped after it was refused entries of a table.
        table_refused,
        /// Of those, because a native handler panicked.
        panicked,
        /// Of those, because the request is larger than the handler can take.
        request_too_large,
        /// Of those, because its answer's body was larger than its limit.
        response_too_large,
        /// Of those, because its header lines were.
        header_lines_too_large,
        /// Of those, because its record was none of an answer, or lied.
        bad_records,
        /// Of those, because its header lines would have broken the framing.
        bad_header_lines,
        /// Of those, because no instance was to be had in time.
        no_instance,
        /// Of those, because no route covers the path.
        no_route,
        /// Of those, because as many waited for a thread as may, or had one as may.
        queue_full,
        /// Of those, because the kernel refused them a thread.
        no_thread,
        /// Of those, because the server ended first.
        shut_down,
        /// Requests whose client left while a handler elsewhere worked on them; not answered.
        cancelled,
        /// Requests whose handler was suspended at least once, to go on in a later turn.
        half_run,
        /// Of those, the first of their handlers: their first slice ended in vain, and they began again
        /// on stacks of their own.
        begun_again,
        /// Times that such a handler went on.
        resumed,
        /// Bytes that such requests held when they were suspended first: the memory of their
        /// instances, and what they had touched of their stacks.
        held_bytes,
        /// Requests that waited before their handler began, and were answered by it: for an instance of
        /// a handler in slices; for a worker, or a thread's birth, every one that went to another thread.
        queued,
        /// How long they waited together, in nanoseconds.
        queued_ns,
        /// Requests that came back from another thread, those in vain among them.
        come_home,
        /// Times that a serving thread had to be woken for some of them; for the others it was awake, or
        /// they came together.
        woken,
        /// Streams that were answered 4xx or 5xx by the server itself, and closed.
        rejected,
        /// Of those, because the request target was longer than its limit.
        target_too_long,
        /// Of those, because the head was larger than its limit.
        head_too_large,
        /// Of those, because the body was larger than its limit.
        body_too_large,
        /// Connections closed because something did not arrive, or was not taken, in time.
        timed_out,
        /// Times that accept failed, mostly for want of descriptors.
        accept_failed,
        /// Bytes received.
        bytes_in,
        /// Bytes handed to the kernel.
        bytes_out,
        /// Bytes that this program copied from one buffer to another. Of a request its head and body:
        /// into the guest's memory; into the session's own buffer, if they came in parts or had to wait;
        /// into a job, if another thread answers it or it waits for an instance. Of an answer its header
        /// lines and body: out of the guest's memory, by way of a job if it has one; and header lines
        /// into what they are compared with, when they are others than the last.
        ///
        /// Not among them: the kernel's own copies (recv, send); what is written anew (a status line, a
        /// date, the table of a request's headers); what moves within its buffer (a chunked body, a
        /// buffer that grows); guests' memory that is put back, which is a figure of its own, or begins with
        /// its module's data; and what guests and their runtime copy.
        bytes_copied,
    }
}

impl Served {
    /// A request failed.
    pub fn fail(&self, failure: &Failure) {
        self.failed.add(1);
        self.class(failure).add(1);
    }

    /// Every failure counts in one class.
    fn class(&self, failure: &Failure) -> &Counter {
        match failure {
            Failure::Deadline => &self.deadline_passed,
            Failure::Trap { .. } => &self.trapped,
            Failure::Stack => &self.stack_overflowed,
            Failure::Memory => &self.memory_refused,
            Failure::Table => &self.table_refused,
            Failure::Panic => &self.panicked,
            Failure::RequestTooLarge => &self.request_too_large,
            Failure::ResponseTooLarge => &self.response_too_large,
            Failure::HeaderLinesTooLarge => &self.header_lines_too_large,
            Failure::BadRecord(_) | Failure::Unsupported(_) => &self.bad_records,
            Failure::BadHeaderLines(_) => &self.bad_header_lines,
            Failure::Exhausted => &self.no_instance,
            Failure::NoRoute => &self.no_route,
            Failure::QueueFull => &self.queue_full,
            Failure::NoThread => &self.no_thread,
            Failure::ShuttingDown => &self.shut_down,
        }
    }

    /// A stream was rejected.
    pub fn reject(&self, reject: &Reject) {
        self.rejected.add(1);
        match reject.status {
            413 => self.body_too_large.add(1),
            414 => self.target_too_long.add(1),
            431 => self.head_too_large.add(1),
            _ => {}
        }
    }
}
