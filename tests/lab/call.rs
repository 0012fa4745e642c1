//! `call`: the answer of one request without a server, and what is said of its cost.

use std::process::Command;

use crate::guests::{File, misbehaving};
use crate::server::PROGRAM;

/// Calls a handler: the exit code, the answer, and what is said about it.
fn call(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM).arg("call").args(arguments).output();
    let output = output.expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("it speaks UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_answer_is_the_servers() {
    for isolation in ["native", "reuse", "fresh"] {
        let body = ["--method", "POST", "--body", "some bytes"];
        let arguments = [&["echo", "--isolation", isolation][..], &body].concat();
        let (code, answer, said) = call(&arguments);
        assert_eq!(code, Some(0), "{said}");
        assert!(answer.starts_with("200 OK\n"), "{answer}");
        assert!(answer.ends_with("\n\nsome bytes"), "{answer}");
        assert!(said.contains("first call") && said.contains("median"));
        let memory = match isolation {
            "native" => "memory n/a: the handler is linked in",
            _ => "pages of 4096 bytes changed: ",
        };
        assert!(said.contains(memory), "{said}");
    }
}

#[test]
fn written_pages_are_counted() {
    // The request, the record's page, and one far away.
    let far = "(i32.store (i32.const 200000) (i32.const 1))";
    let grows = "(drop (memory.grow (i32.const 1))) (i32.store (i32.const 262144) (i32.const 1))";
    let guest = File::new("writes.wat", misbehaving([far, grows]));
    let check = |body: &str, words: &str| {
        let (code, _, said) = call(&[guest.path(), "--body", body]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(words), "{words:?} is not in {said}");
    };
    check(
        "",
        "memory 262144 bytes, 0 of them grown; pages of 4096 bytes changed: 1",
    );
    check(
        "x",
        "memory 262144 bytes, 0 of them grown; pages of 4096 bytes changed: 2",
    );
    check(
        "xx",
        "memory 327680 bytes, 65536 of them grown; pages of 4096 bytes changed: 2",
    );
}

#[test]
fn a_handler_that_fails_is_told_from_one_that_answers() {
    let guest = File::new("traps.wat", misbehaving(["unreachable"]));
    let (code, answer, said) = call(&[guest.path(), "--body", "x"]);
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(answer, "500 unreachable\n");
    assert!(said.contains("the handler trapped: unreachable"), "{said}");
}

#[test]
fn bad_input_is_refused_in_words() {
    let check = |arguments: &[&str], word: &str| {
        let (code, answer, said) = call(arguments);
        assert_eq!((code, &*answer), (Some(2), ""), "{said}");
        assert!(said.contains(word), "{word:?} is not in {said}");
    };
    check(&["helo"], "did you mean hello?");
    check(&["hello", "--path", "no-path"], "answers 400");
    check(&["hello", "--header", "no header"], "write it as");
    check(
        &["hello", "--header", "Content-Length: 9", "--body", "x"],
        "leave out Content-Length",
    );
    check(&["hello", "--body", "@./no-such"], "cannot be read from");
}
