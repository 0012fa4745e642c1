;; A request handler in WebAssembly's text format, by hand: guest ABI, version 1.
;; It answers every request with the same text. Serve it with
;;
;;   ringlab serve --handler hello.wat
;;
;; The host takes three exports and gives no import.
(module
  ;; 1. The one memory, here 64 KiB that never grow. What lies where:
  ;;         0  the record, 24 bytes
  ;;        32  the answer's header lines, 26 bytes
  ;;        64  the answer's body, 27 bytes
  ;;      1024  the request area: 8 bytes, then 32768 for the request
  (memory (export "memory") 1 1)

  ;; 2. The address of the request area. The name is the version of the ABI.
  (global (export "ringlab_v1") i32 (i32.const 1024))

  ;; The request area begins with two words of 32 bits, little-endian: how many
  ;; bytes follow for the request (0x8000 = 32768), and zero. A longer request is
  ;; answered 413 without a call.
  (data (i32.const 1024) "\00\80\00\00" "\00\00\00\00")

  ;; Header lines: each is `name: value` and ends with CR LF (\0d\0a). The host
  ;; adds the framing, such as content-length, itself.
  (data (i32.const 32) "content-type: text/plain\0d\0a")

  ;; The body, any bytes.
  (data (i32.const 64) "Hello from the text format\0a")

  ;; The record, little-endian.
  (data (i32.const 0)
    "\00\00"            ;; kind: 0, an answer
    "\c8\00"            ;; status: 0x00c8 = 200
    "\20\00\00\00"      ;; header lines: their address, 32
    "\1a\00\00\00"      ;;               their length, 26
    "\40\00\00\00"      ;; body: its address, 64
    "\1b\00\00\00"      ;;       its length, 27
    "\00\00\00\00")     ;; milliseconds: of no meaning in an answer

  ;; 3. The handler. The host has written $length bytes of request from 1032 on;
  ;; the result is the address of the record, which, with the texts that it
  ;; names, must stay as it is until the next call.
  (func (export "handle") (param $length i32) (result i32)
    (i32.const 0)))
