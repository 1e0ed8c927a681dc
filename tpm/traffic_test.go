package tpm_test

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// traffic is all that goes over a proxy. It records what the client sends and gets, at the place of
// a handler.
type traffic struct {
	mu    sync.Mutex
	bytes []byte
	sent  map[tpm2.TPMCC]int
	total int
}

// under puts the recorder between the client and a handler; nil only passes on.
func (r *traffic) under(next tpmtest.Handler) tpmtest.Handler {
	return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		r.record(command, true)
		rsp, err := pass(next, command, forward)
		r.record(rsp, false)
		return rsp, err
	}
}

func pass(next tpmtest.Handler, command []byte, forward tpmtest.Forward) ([]byte, error) {
	if next == nil {
		return forward(command)
	}
	return next(command, forward)
}

func (r *traffic) record(message []byte, command bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes = append(r.bytes, message...)
	if command {
		if r.sent == nil {
			r.sent = make(map[tpm2.TPMCC]int)
		}
		r.sent[codeOf(message)]++
		r.total++
	}
}

// shows reports whether secret went over the wire as it is.
func (r *traffic) shows(secret []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Contains(r.bytes, secret)
}

// count says how many commands with this code went by.
func (r *traffic) count(code tpm2.TPMCC) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent[code]
}

// all says how many commands went by.
func (r *traffic) all() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// codeOf returns the code of a command.
func codeOf(command []byte) tpm2.TPMCC { return tpm2.TPMCC(tpmtest.CommandCode(command)) }

// answered returns the code of a response.
func answered(rsp []byte) tpm2.TPMRC { return tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) }

// refusing answers all commands with one of these codes, as many times as given, and passes on the
// rest. Less than 0 is without end.
func refusing(times int, with tpm2.TPMRC, commands ...tpm2.TPMCC) tpmtest.Handler {
	var mu sync.Mutex
	return func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range commands {
			if c == codeOf(command) && times != 0 {
				times--
				return tpmtest.Response(uint32(with)), nil
			}
		}
		return forward(command)
	}
}
