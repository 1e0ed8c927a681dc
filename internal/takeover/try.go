package takeover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// Dial opens a connection, as [net.Dialer.DialContext] does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// tryTimeout bounds each attempt. Where the rules are loaded, each ends at once.
const tryTimeout = 3 * time.Second

// elsewhere is a port of IMDS' address at which nothing is asked for.
const elsewhere = 32526

// maxTriedBytes limits how much of an answer is read.
const maxTriedBytes = 64 << 10

// Try does as a program of a taken user would that wants IMDS, or that wants to go around the
// agent, and asks for nothing that changes anything. Port is the agent's, 0 if it is not known. The
// context bounds all of it.
func Try(ctx context.Context, dial Dial, port uint16) []Finding {
	found := []Finding{tryAgent(ctx, dial)}
	refused := func(check, network string, addresses ...string) {
		found = append(found, tryRefused(ctx, dial, check, network, addresses))
	}
	refused("other ports", "tcp4", net.JoinHostPort(address, strconv.Itoa(elsewhere)))
	if port != 0 {
		refused("the agent's own port", "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	}
	var routed []string
	for _, twin := range twins() {
		if !strings.HasPrefix(twin, "fe80:") { // which needs an interface
			routed = append(routed, net.JoinHostPort(twin, "80"))
		}
	}
	refused("IPv6", "tcp6", routed...)
	return found
}

// tryAgent asks at IMDS' address for what only the agent has.
func tryAgent(ctx context.Context, dial Dial) Finding {
	const check = "the agent"
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	conn, err := dial(ctx, "tcp4", net.JoinHostPort(address, "80"))
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Finding{check, Fail, "connections to " + address + " are refused: the agent does not run, or does not listen where they are redirected to. They do not go to IMDS", false}
	case err != nil:
		return Finding{check, Fail, fmt.Sprintf("%s is not reached: %v", address, cause(err)), true}
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	passes, err := askAgent(conn)
	switch {
	case errors.Is(err, errAnother):
		return Finding{check, Fail, "it is not the agent that answers at " + address + ": programs of this user reach IMDS itself. Or the user is not one of those who are taken over", true}
	case err != nil:
		return Finding{check, Fail, fmt.Sprintf("%s accepts a connection and does not answer (%v): the agent does not serve this user, or is stopping", address, cause(err)), false}
	}
	passed := "nothing"
	if len(passes) > 0 {
		passed = strings.Join(passes, ", ")
	}
	return Finding{check, OK, "the agent answers at " + address + ", and passes on: " + passed, false}
}

// errAnother is of an answer that is not the agent's.
var errAnother = errors.New("another answer")

// askAgent returns what the agent says that it passes on.
func askAgent(conn net.Conn) (passes []string, err error) {
	if _, err := io.WriteString(conn, "GET "+wire.PathTakeover+" HTTP/1.1\r\nHost: "+address+"\r\nMetadata: true\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxTriedBytes)), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var said wire.Takeover
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || resp.StatusCode != http.StatusOK || said.Address != address {
		return nil, errAnother
	}
	return said.Passes, nil
}

// tryRefused tries ways around.
func tryRefused(ctx context.Context, dial Dial, check, network string, addresses []string) Finding {
	var refusals []string
	for _, address := range addresses {
		err := tryDial(ctx, dial, network, address)
		switch {
		case err == nil:
			return Finding{check, Fail, "a connection to " + address + " is possible", true}
		case isTimeout(err):
			return Finding{check, Fail, "traffic to " + address + " leaves the machine: nothing refuses it", true}
		}
		refusals = append(refusals, fmt.Sprintf("%s: %v", address, cause(err)))
	}
	return Finding{check, OK, strings.Join(refusals, "; "), false}
}

func tryDial(ctx context.Context, dial Dial, network, address string) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	conn, err := dial(ctx, network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func isTimeout(err error) bool {
	var timed net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timed) && timed.Timeout()
}

// cause is the innermost error, without the address that the text around it has.
func cause(err error) error {
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number
	}
	return err
}
