package agentapi_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/keyagent/keyagent/agentapi"
)

// The test binary plays other processes, too: started with roleEnv set it does what the variable
// says with the socket and request, and exits.
const (
	roleEnv    = "KEYAGENT_AGENTAPI_TEST_ROLE"
	socketEnv  = "KEYAGENT_AGENTAPI_TEST_SOCKET"
	requestEnv = "KEYAGENT_AGENTAPI_TEST_REQUEST"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := play(role); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		os.Exit(1)
	}
}

func play(role string) error {
	switch role {
	case "ask":
		conn, err := net.Dial("unix", os.Getenv(socketEnv))
		if err != nil {
			return err
		}
		return ask(conn)
	case "ask over fd 3":
		conn, err := net.FileConn(os.NewFile(3, "inherited"))
		if err != nil {
			return err
		}
		return ask(conn)
	case "ask by tcp":
		conn, err := net.Dial("tcp", os.Getenv(socketEnv))
		if err != nil {
			return err
		}
		return ask(conn)
	case "connect and lend":
		conn, err := net.Dial("unix", os.Getenv(socketEnv))
		if err != nil {
			return err
		}
		return lend(conn)
	case "program":
		return beProgram(os.Getenv(socketEnv), os.Getenv(requestEnv))
	case "serve many":
		return serveMany(os.Getenv(socketEnv))
	case "listen":
		if _, err := agentapi.Listen(os.Getenv(socketEnv), 0o600); err != nil {
			return err
		}
		fmt.Println("listening")
		_, err := io.Copy(io.Discard, os.Stdin) // until killed
		return err
	}
	return errors.ErrUnsupported
}

// ask sends the request and prints the status and body of the reply.
func ask(conn net.Conn) error {
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET "+os.Getenv(requestEnv)+" HTTP/1.1\r\nHost: agent\r\nMetadata: true\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// process returns a re-execution of this test in a role, as another user if credential is not nil.
// The path /proc/self/exe works for a user who cannot reach the binary's directory.
func process(role, socket, request string, credential *syscall.Credential) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	// The race detector would wait a second before each exit.
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0", roleEnv + "=" + role, socketEnv + "=" + socket, requestEnv + "=" + request}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	return cmd
}

// reply runs a process that asks, and returns the status and body that it got.
func reply(t *testing.T, cmd *exec.Cmd) (status int, body string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	first, rest, _ := bytes.Cut(out, []byte("\n"))
	status, err = strconv.Atoi(string(first))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return status, string(rest)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("starting a process as another user needs root")
	}
}
