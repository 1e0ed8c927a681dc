package takeover_test

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/takeover"
)

const goodAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"takeover":"169.254.169.254","passes":["instance"]}`

// world is what answers at addresses. What is not there is refused.
type world struct {
	answers map[string]string // what is written after a request was read; "": the connection is closed
	errors  map[string]error
}

func (w world) dial(_ context.Context, _, address string) (net.Conn, error) {
	if err := w.errors[address]; err != nil {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}
	}
	said, there := w.answers[address]
	if !there {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if _, err := theirs.Read(make([]byte, 4096)); err == nil {
			_, _ = io.WriteString(theirs, said)
		}
	}()
	return ours, nil
}

func TestTry(t *testing.T) {
	const imds = "169.254.169.254:80"
	for _, tt := range []struct {
		name  string
		world world
		fails string // the check that does; "": none
		says  string
	}{
		{"as it should be", world{answers: map[string]string{imds: goodAnswer}}, "", ""},
		{"the agent does not run", world{}, "the agent", "the agent does not run"},
		{"IMDS answers", world{answers: map[string]string{imds: "HTTP/1.1 404 Not Found\r\nServer: IMDS/150\r\nContent-Length: 2\r\n\r\n{}"}}, "the agent", "it is not the agent"},
		{"something answers anything with 200", world{answers: map[string]string{imds: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"}}, "the agent", "it is not the agent"},
		{"something of another address", world{answers: map[string]string{imds: strings.Replace(goodAnswer, "169.254.169.254", "169.254.169.253", 1)}}, "the agent", "it is not the agent"},
		{"the agent refuses the user", world{answers: map[string]string{imds: ""}}, "the agent", "does not answer"},
		{"no HTTP", world{answers: map[string]string{imds: "220 hello\r\n"}}, "the agent", "does not answer"},
		{"no route", world{errors: map[string]error{imds: syscall.ENETUNREACH}}, "the agent", "is not reached"},
		{"another port leads somewhere", world{answers: map[string]string{imds: goodAnswer, "169.254.169.254:32526": ""}}, "other ports", "is possible"},
		{"packets to another port leave", world{answers: map[string]string{imds: goodAnswer}, errors: map[string]error{"169.254.169.254:32526": syscall.ETIMEDOUT}}, "other ports", "leaves the machine"},
		{"the agent's port is open", world{answers: map[string]string{imds: goodAnswer, "127.0.0.1:842": ""}}, "the agent's own port", "is possible"},
		{"the IPv6 twin", world{answers: map[string]string{imds: goodAnswer, "[fd00:ec2::254]:80": ""}}, "IPv6", "is possible"},
		{"no IPv6", world{answers: map[string]string{imds: goodAnswer}, errors: map[string]error{"[fd00:ec2::254]:80": syscall.ENETUNREACH}}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := ""
			for _, f := range takeover.Try(t.Context(), tt.world.dial, 842) {
				if f.Verdict == takeover.OK {
					continue
				}
				if failed += f.Check; !strings.Contains(f.Detail, tt.says) {
					t.Errorf("%s: %s", f.Check, f.Detail)
				}
			}
			if failed != tt.fails {
				t.Errorf("%q failed, want %q", failed, tt.fails)
			}
		})
	}
}
