// Go's way with a request that computes: a goroutine for each connection, pre-empted by the runtime.
//
//	server PORT
//
// `/` answers at once. `/spin?iterations=N` takes N steps of xorshift32, and answers where they end.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "Hello, World!\n")
	})
	http.HandleFunc("/spin", func(w http.ResponseWriter, r *http.Request) {
		steps, _ := strconv.Atoi(r.URL.Query().Get("iterations"))
		state := uint32(0x9e3779b9)
		for ; steps > 0; steps-- {
			state ^= state << 13
			state ^= state >> 17
			state ^= state << 5
		}
		fmt.Fprintln(w, state)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
