package starts_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// delays are what a proxy adds to the time that a TPM takes.
type delays struct {
	command   time.Duration // to each command
	signature time.Duration // to each signature by a key of the agent, besides
	evidence  time.Duration // to each signature of the attestation key, besides
}

// slowTPM stands before a TPM, lists the commands that go to it, and delays them.
type slowTPM struct {
	proxy *tpmtest.Proxy

	mu     sync.Mutex
	delays delays
	sent   []tpm2.TPMCC
	busy   time.Duration // that all commands took
}

func newSlowTPM(tb testing.TB, device string) *slowTPM {
	tb.Helper()
	s := &slowTPM{proxy: tpmtest.NewProxy(tb, device)}
	s.proxy.Handle(s.handle)
	return s
}

func (s *slowTPM) handle(command []byte, forward tpmtest.Forward) ([]byte, error) {
	code := tpm2.TPMCC(tpmtest.CommandCode(command))
	s.mu.Lock()
	s.sent = append(s.sent, code)
	wait := s.delays.of(code)
	s.mu.Unlock()
	began := time.Now()
	time.Sleep(wait)
	answer, err := forward(command)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy += time.Since(began)
	return answer, err
}

func (d delays) of(code tpm2.TPMCC) time.Duration {
	switch code {
	case tpm2.TPMCCSign:
		return d.command + d.signature
	case tpm2.TPMCCCertify, tpm2.TPMCCQuote:
		return d.command + d.evidence
	default:
		return d.command
	}
}

// count is how many commands were sent, in how many of them one of the agent's own keys signed, and
// what all of them took.
type count struct {
	commands, signatures int
	took                 time.Duration
}

// restart forgets what was sent, and sets the delays of what comes.
func (s *slowTPM) restart(d delays) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delays, s.sent, s.busy = d, nil, 0
}

// counted is what was sent since the restart.
func (s *slowTPM) counted() count {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := count{commands: len(s.sent), took: s.busy}
	for _, code := range s.sent {
		if code == tpm2.TPMCCSign {
			c.signatures++
		}
	}
	return c
}
