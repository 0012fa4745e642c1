//! What a server did for its clients, counted by the thread that did it.

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
        /// Of those, because no route covers the path.
        no_route,
        /// Of those, because no thread was to be had for the handler.
        queue_full,
        /// Requests whose client left while a handler elsewhere worked on them; not answered.
        cancelled,
        /// Streams that were answered 4xx or 5xx by the server itself, and closed.
        rejected,
        /// Connections closed because something did not arrive, or was not taken, in time.
        timed_out,
        /// Times that accept failed, mostly for want of descriptors.
        accept_failed,
        /// Bytes received.
        bytes_in,
        /// Bytes handed to the kernel.
        bytes_out,
    }
}
