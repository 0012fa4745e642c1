//! `hello` for wasi:http: the same answer as ringlab's, for `wasmtime serve`.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;

impl Guest for Hello {
    fn handle(_: IncomingRequest, out: ResponseOutparam) {
        const BODY: &[u8] = b"Hello, world!\n";
        let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let fields = Fields::from_list(&[
            header("content-type", b"text/plain; charset=utf-8"),
            header("content-length", BODY.len().to_string().as_bytes()),
        ])
        .expect("two plain fields");
        let response = OutgoingResponse::new(fields);
        let body = response.body().expect("asked for once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("asked for once");
        stream.blocking_write_and_flush(BODY).expect("it is short");
        drop(stream);
        OutgoingBody::finish(body, None).expect("as long as was said");
    }
}

wasip2::http::proxy::export!(Hello);
