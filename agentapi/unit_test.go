package agentapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// cgroupTree makes a tree of cgroups with these services, and returns its root.
func cgroupTree(t *testing.T, paths ...string) string {
	t.Helper()
	needRoot(t)
	root := ""
	for _, dir := range []string{peer.CgroupRoot, filepath.Join(peer.CgroupRoot, "unified")} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			root = dir
		}
	}
	if root == "" {
		t.Skip("no cgroup v2 here")
	}
	root = filepath.Join(root, fmt.Sprintf("keyagent-test-%d-%s", os.Getpid(), filepath.Base(t.Name())))
	for _, path := range append([]string{""}, paths...) {
		dir := root
		for _, part := range strings.Split(path, "/") {
			dir = filepath.Join(dir, part)
			made := dir
			if err := os.Mkdir(dir, 0o755); err == nil {
				t.Cleanup(func() { _ = os.Remove(made) })
			} else if !errors.Is(err, os.ErrExist) {
				t.Skipf("no cgroup can be made here: %v", err)
			}
		}
	}
	return root
}

// in has a process start in a cgroup.
func in(t *testing.T, cmd *exec.Cmd, dir string) *exec.Cmd {
	t.Helper()
	file, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(file.Fd())
	return cmd
}

// rule gives what the callers of the rule ask for in these tests.
func rule(callers policy.Rule) *policy.Policy {
	callers.Name, callers.Identities, callers.Resources, callers.TokenTypes = "r", []string{"shop"}, []string{vault}, []string{"bearer"}
	return &policy.Policy{Rules: []policy.Rule{callers}}
}

// Callers are real processes in real cgroups.
func TestUnits(t *testing.T) {
	const uid = 64101
	service, lookalike := "system.slice/web.service", "user.slice/user-64101.slice/user@64101.service/system.slice/web.service"
	root := cgroupTree(t, service, "system.slice/other.service", lookalike)
	byUnit, both := policy.Rule{Units: []string{"web.service"}}, policy.Rule{UIDs: []uint32{uid}, Units: []string{"web.service"}}
	tests := []struct {
		name   string
		rule   policy.Rule
		uid    uint32
		cgroup string
		status int
		reason policy.Reason
	}{
		{"a process of the unit", byUnit, uid, service, 200, ""},
		{"of whatever user", byUnit, uid + 1, service, 200, ""},
		{"a process of another unit", byUnit, uid, "system.slice/other.service", 403, policy.ReasonCaller},
		{"a process of a unit that a user has named so", byUnit, uid, lookalike, 403, policy.ReasonCaller},
		{"the user in the unit", both, uid, service, 200, ""},
		{"the user outside of the unit", both, uid, "system.slice/other.service", 403, policy.ReasonUnit},
		{"another user in the unit", both, uid + 1, service, 403, policy.ReasonCaller},
		{"a unit that does not run", policy.Rule{UIDs: []uint32{uid}, Units: []string{"off.service"}}, uid, service, 403, policy.ReasonUnit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(working, rule(tt.rule))
			cfg.Machine = peer.Host{Cgroups: root}
			a := start(t, cfg)
			cmd := process("ask", a.socket, nativeTarget, &syscall.Credential{Uid: tt.uid, Gid: tt.uid})
			status, body := reply(t, in(t, cmd, filepath.Join(root, tt.cgroup)))
			record := a.audit.lastRecord(t)
			if status != tt.status || record["transport"] != "unix" || record["uid"] != float64(tt.uid) {
				t.Errorf("%d %s, audit %v", status, body, record)
			}
			if tt.status == 200 {
				if record["unit"] != "web.service" || record["cgroup"] != nil || record["reason"] != nil {
					t.Errorf("audit %v, want the unit", record)
				}
				return
			}
			if record["reason"] != string(tt.reason) || record["unit"] != nil || record["cgroup"] == nil {
				t.Errorf("audit %v, want the reason %q and the number of the cgroup", record, tt.reason)
			}
			if tells := strings.Contains(body, "units that it is not in"); tells != (tt.reason == policy.ReasonUnit) {
				t.Errorf("it is told %s", body)
			}
		})
	}
}

// lent is a connection that another process has made and handed over, and that process.
type lent struct {
	*testing.T
	conn   net.Conn
	reader *bufio.Reader
	end    func() // of the process; it returns when that has ended
}

// borrow has a process connect, hand the connection over and go on until it is told to end.
func borrow(t *testing.T, cmd *exec.Cmd) *lent {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	file := os.NewFile(uintptr(fds[0]), "lent")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	end := sync.OnceFunc(func() {
		_ = unix.Close(pair[0])
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	return &lent{t, conn, bufio.NewReader(conn), end}
}

// lend is the other side of borrow.
func lend(conn net.Conn) error {
	file, err := conn.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte("x"), unix.UnixRights(int(file.Fd())), nil, 0); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.NewFile(3, "pair"))
	return err
}

// ask makes a request on the connection.
func (l *lent) ask() int {
	l.Helper()
	if _, err := fmt.Fprintf(l.conn, "GET %s HTTP/1.1\r\nHost: agent\r\n\r\n", nativeTarget); err != nil {
		l.Fatal(err)
	}
	resp, err := http.ReadResponse(l.reader, nil)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// Whoever goes on with the connection of a process that has ended is its user, and not its unit or
// program.
func TestUnitAndProgramEndWithTheProcess(t *testing.T) {
	const uid = 64101
	service := "system.slice/web.service"
	root := cgroupTree(t, service)
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		rule  policy.Rule
		after int
	}{
		"a unit":              {policy.Rule{Units: []string{"web.service"}}, 403},
		"a user in a unit":    {policy.Rule{UIDs: []uint32{uid}, Units: []string{"web.service"}}, 403},
		"a program of a user": {policy.Rule{UIDs: []uint32{uid}, Executables: []string{program}}, 403},
		"a user":              {policy.Rule{UIDs: []uint32{uid}}, 200},
		"a group":             {policy.Rule{GIDs: []uint32{uid}}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(working, rule(tt.rule))
			cfg.Machine = peer.Host{Cgroups: root}
			a := start(t, cfg)
			cmd := process("connect and lend", a.socket, "", &syscall.Credential{Uid: uid, Gid: uid})
			conn := borrow(t, in(t, cmd, filepath.Join(root, service)))
			for range 2 { // the second is the same request again
				if status := conn.ask(); status != 200 {
					t.Fatalf("while the process runs: %d, %v", status, a.audit.lastRecord(t))
				}
			}
			if record := a.audit.lastRecord(t); len(tt.rule.Executables) > 0 && record["executable"] != program {
				t.Errorf("audit %v, want the program", record)
			}
			conn.end()
			if status := conn.ask(); status != tt.after {
				t.Errorf("after the process has ended: %d, want %d, %v", status, tt.after, a.audit.lastRecord(t))
			}
			if record := a.audit.lastRecord(t); record["unit"] != nil || record["cgroup"] != nil || record["executable"] != nil || record["uid"] != float64(uid) {
				t.Errorf("audit %v, want the user alone", record)
			}
		})
	}
}

// fixed is a machine on which the tests say what runs.
type fixed struct {
	mu    sync.Mutex
	units map[string]uint64
}

func (f *fixed) UnitID(unit string) (uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, running := f.units[unit]
	return id, running
}

func (f *fixed) Runs(peer.Caller, string) bool { return false }

func (f *fixed) set(unit string, id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.units[unit] = id
}

// A request that was allowed to a unit is decided again each time: the unit may have stopped.
func TestARequestOfAUnitIsNotRemembered(t *testing.T) {
	machine := &fixed{units: map[string]uint64{}}
	rules := rule(policy.Rule{Units: []string{"web.service"}})
	second := rules.Rules[0] // by which the caller may come in, whatever becomes of the unit
	second.Name, second.Units, second.UIDs, second.Resources = "s", nil, []uint32{uint32(os.Geteuid())}, []string{storage}
	rules.Rules = append(rules.Rules, second)
	cfg := config(working, rules)
	cfg.Machine = machine
	a := start(t, cfg)
	conn, err := a.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	caller, err := peer.Of(acceptedTwin(t))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	machine.set("web.service", caller.CgroupID) // that of this process
	l := &lent{t, conn, bufio.NewReader(conn), nil}
	for _, tt := range []struct {
		id     uint64
		status int
	}{{caller.CgroupID, 200}, {caller.CgroupID, 200}, {caller.CgroupID + 1, 403}, {caller.CgroupID, 200}} {
		machine.set("web.service", tt.id)
		if status := l.ask(); status != tt.status {
			t.Errorf("the unit has %d, the caller %d: %d, want %d", tt.id, caller.CgroupID, status, tt.status)
		}
	}
}

// acceptedTwin returns a connection of this process to itself, by which its cgroup can be learnt.
func acceptedTwin(t *testing.T) net.Conn {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A caller whom the kernel knows by number only is on record as such.
func TestWeakCallers(t *testing.T) {
	weak := peer.Caller{UID: 1000, GID: 1000, PID: 7, CgroupID: 100, Weak: true, Via: peer.ViaUnix}
	for name, tt := range map[string]struct {
		rule   policy.Rule
		strict bool
		status int
	}{
		"the user in the unit":           {policy.Rule{UIDs: []uint32{1000}, Units: []string{"web.service"}}, false, 200},
		"the unit alone":                 {policy.Rule{Units: []string{"web.service"}}, false, 403},
		"the user in the unit, strictly": {policy.Rule{UIDs: []uint32{1000}, Units: []string{"web.service"}}, true, 403},
		"the user, strictly":             {policy.Rule{UIDs: []uint32{1000}}, true, 200},
	} {
		t.Run(name, func(t *testing.T) {
			rules := rule(tt.rule)
			rules.Strict = tt.strict
			cfg := config(working, rules)
			cfg.Machine = &fixed{units: map[string]uint64{"web.service": 100}}
			server, audit, _ := newServer(t, cfg)
			w := httptest.NewRecorder()
			server.HandlerFor(weak).ServeHTTP(w, httptest.NewRequest(http.MethodGet, nativeTarget, nil))
			server.CloseTrail()
			record := audit.lastRecord(t)
			if w.Code != tt.status || record["peer_identity"] != "weak" {
				t.Errorf("%d, audit %v", w.Code, record)
			}
		})
	}
}

// Over TCP, the owner of the client's socket counts, for as long as the connection is the client's.
func TestCallersOverTCP(t *testing.T) {
	const uid = 64101
	needRoot(t)
	tcp, err := peer.OpenTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tcp.Close() })
	service := "system.slice/web.service"
	root := cgroupTree(t, service, "system.slice/other.service")
	asked := strings.Replace(imdsTarget, wire.PathIMDSToken, "/token", 1)
	for name, tt := range map[string]struct {
		rule   policy.Rule
		cgroup string
		uid    uint32
		status int
	}{
		"a user":                       {policy.Rule{UIDs: []uint32{uid}}, service, uid, 200},
		"another user":                 {policy.Rule{UIDs: []uint32{uid}}, service, uid + 1, 403},
		"a unit":                       {policy.Rule{Units: []string{"web.service"}}, service, uid, 200},
		"another unit":                 {policy.Rule{Units: []string{"web.service"}}, "system.slice/other.service", uid, 403},
		"a group, which is not known":  {policy.Rule{GIDs: []uint32{uid}}, service, uid, 403},
		"root, which is not certain":   {policy.Rule{UIDs: []uint32{0}}, service, 0, 403},
		"root in a unit, which is":     {policy.Rule{UIDs: []uint32{0}, Units: []string{"web.service"}}, service, 0, 200},
		"a program, of which not sure": {policy.Rule{UIDs: []uint32{uid}, Executables: []string{"/proc/self/exe"}}, service, uid, 403},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := peer.ListenTCP(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			cfg := config(working, rule(tt.rule))
			cfg.Machine = peer.Host{Cgroups: root}
			server, audit, _ := newServer(t, cfg)
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- server.ServeLoopback(ctx, ln, "/token", "", tcp.Of) }()
			cmd := process("ask by tcp", ln.Addr().String(), asked, &syscall.Credential{Uid: tt.uid, Gid: tt.uid})
			status, body := reply(t, in(t, cmd, filepath.Join(root, tt.cgroup)))
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
			record := audit.lastRecord(t)
			if status != tt.status || record["transport"] != "tcp" || record["uid"] != float64(tt.uid) {
				t.Errorf("%d %s, audit %v", status, body, record)
			}
			for _, unknown := range []string{"gid", "pid"} {
				if record[unknown] != nil {
					t.Errorf("audit %v: nobody knows the %s", record, unknown)
				}
			}
		})
	}
}

// A connection that is not the caller's any more gives nothing, whatever it was allowed before.
func TestAConnectionThatHasEndedGivesNothing(t *testing.T) {
	tcp, err := peer.OpenTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	ln, err := peer.ListenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	caller, err := tcp.Of(conn)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(working, rule(policy.Rule{UIDs: []uint32{caller.UID}, Units: []string{"web.service"}}))
	cfg.Machine = &fixed{units: map[string]uint64{"web.service": caller.CgroupID}}
	server, audit, _ := newServer(t, cfg)
	handler := server.HandlerFor(caller)
	ask := func() int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, nativeTarget, nil))
		return w.Code
	}
	if status := ask(); status != 200 {
		t.Fatalf("while the connection lives: %d", status)
	}
	_ = client.Close()
	_, _ = io.Copy(io.Discard, conn)
	if status := ask(); status != 403 {
		t.Errorf("after the client has closed: %d", status)
	}
	server.CloseTrail()
	record := audit.lastRecord(t)
	if reason, _ := record["reason"].(string); !strings.Contains(reason, "has ended") || record["decision"] != "refused" {
		t.Errorf("audit %v", record)
	}
}

// Users of one unit share what one user may have: a service may have thousands of uids (subuid(5)).
func TestAUnitCannotTakeAllConnections(t *testing.T) {
	service := "system.slice/web.service"
	root := cgroupTree(t, service)
	cfg := config(working, rule(policy.Rule{Units: []string{"web.service"}}))
	cfg.Machine = peer.Host{Cgroups: root}
	cfg.MaxConnectionsPerUser = 2
	a := start(t, cfg)
	hold := func(uid uint32) *lent {
		cmd := process("connect and lend", a.socket, "", &syscall.Credential{Uid: uid, Gid: uid})
		return borrow(t, in(t, cmd, filepath.Join(root, service)))
	}
	for uid := range uint32(2) {
		if status := hold(64101 + uid).ask(); status != 200 {
			t.Fatalf("connection %d: %d", uid+1, status)
		}
	}
	third := hold(64103)
	resp, err := http.ReadResponse(third.reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "users of this unit") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if status, _ := a.raw(t, "GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n"); status != 200 {
		t.Errorf("root gets %d", status)
	}
}

// The levels that agents tell of.
func TestCallerIdentity(t *testing.T) {
	why := errors.New("cgroups of version 1")
	level := peer.Level{Process: peer.FormNumber, Why: "an old kernel", Units: why}
	got := agentapi.CallerIdentity(level, true)
	want := wire.CallerIdentity{
		Required: "strict", Process: wire.ProcessByNumber, Reason: "an old kernel",
		Units: wire.CallerProof{Reason: why.Error()}, Loopback: wire.CallerProof{Available: true},
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for form, spelt := range map[peer.Form]string{
		peer.FormPidfd: wire.ProcessByPidfd, peer.FormPidfdAndProc: wire.ProcessByPidfdAndProc,
		peer.FormNumber: wire.ProcessByNumber, peer.FormNone: wire.ProcessUnknown,
	} {
		if got := agentapi.CallerIdentity(peer.Level{Process: form}, false); got.Process != spelt || got.Required != "available" {
			t.Errorf("%s: got %+v", form, got)
		}
	}
}
