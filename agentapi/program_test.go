package agentapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// beProgram is a program that gets a secret at a socket, with a query, then does as the lines of
// its input say: a URL is asked for with the secret, "secret TEXT" is another secret, "become PATH"
// makes the process another program. Each is answered by one line: the secret, or status and body.
func beProgram(socket, query string) error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	status, body, err := roundTrip(transport, http.MethodPost, "http://agent"+wire.PathEndpoint+query, "")
	if err != nil {
		return err
	}
	var endpoint wire.Endpoint
	if err := json.Unmarshal(body, &endpoint); err != nil || status != http.StatusOK {
		fmt.Printf("%d %s\n", status, body)
		return err
	}
	text := endpoint.Secret.Reveal()
	fmt.Println(text)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "secret":
			text = rest
		case "become":
			return unix.Exec(rest, []string{rest, "/proc/self/comm", "-"}, nil) // cat says its name, and stays
		default:
			status, body, err := roundTrip(&http.Transport{DisableKeepAlives: true}, http.MethodGet, word, text)
			if err != nil {
				return err
			}
			fmt.Printf("%d %s\n", status, body)
		}
	}
	return lines.Err()
}

func roundTrip(transport *http.Transport, method, target, text string) (status int, body []byte, err error) {
	req, err := http.NewRequest(method, target, nil)
	if err != nil {
		return 0, nil, err
	}
	if text != "" {
		req.Header.Set(wire.HeaderIdentity, text)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, bytes.TrimSpace(body), err
}

// program is a running process of [beProgram].
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	input  io.WriteCloser
	output *bufio.Reader
	secret string // or why there is none
}

// startProgram starts one as a user, in a cgroup if it is not nil.
func (p *programs) startProgram(t *testing.T, uid int, query string, cgroup *os.File) *program {
	t.Helper()
	cmd := process("program", p.socket, query, nil)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	if cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := &program{t: t, cmd: cmd, input: input, output: bufio.NewReader(output)}
	t.Cleanup(running.end)
	running.secret = running.line()
	return running
}

// tell writes a line, and does not wait for an answer.
func (p *program) tell(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.input, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *program) line() string {
	p.t.Helper()
	line, err := p.output.ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// ask has the program ask for a URL with the secret that it has.
func (p *program) ask(target string) (status, body string) {
	p.t.Helper()
	p.tell(target)
	status, body, _ = strings.Cut(p.line(), " ")
	return status, body
}

// end ends the process and waits for it. It may be called again.
func (p *program) end() {
	_ = p.input.Close()
	_ = p.cmd.Process.Kill() // it may not read
	_ = p.cmd.Wait()
}

// cgroupOf makes a cgroup of its own for a test; it is skipped where that cannot be.
func cgroupOf(t *testing.T, name string) (path string, dir *os.File) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		path = fmt.Sprintf("%s/keyagent-test-%d-%s", root, os.Getpid(), name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Skipf("a cgroup cannot be made here: %v", err)
		}
		t.Cleanup(func() {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		})
		dir, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dir.Close() })
		return path, dir
	}
	t.Skip("there are no cgroups of version 2 here")
	return "", nil
}
