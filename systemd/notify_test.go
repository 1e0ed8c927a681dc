package systemd_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/systemd"
)

// manager is the socket at which a service manager is told. Tests that use it cannot be parallel.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// newManager sets the variables of a service whose watchdog waits for a time; 0: it has none.
func newManager(t *testing.T, watchdog time.Duration) (manager, *systemd.Notifier) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("WATCHDOG_USEC", "")
	if watchdog > 0 {
		t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	}
	notifier, err := systemd.OpenNotifier()
	if err != nil {
		t.Fatal(err)
	}
	return manager{t, conn}, notifier
}

// next is the next message; a test that waits for one that does not come is ended by go test.
func (m manager) next() string {
	m.t.Helper()
	text := make([]byte, 4096)
	n, err := m.conn.Read(text)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text[:n])
}

// quiet checks that nothing more was said.
func (m manager) quiet() {
	m.t.Helper()
	raw, err := m.conn.SyscallConn()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		text := make([]byte, 4096)
		if n, _, err := unix.Recvfrom(int(fd), text, unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
			m.t.Errorf("the manager was told %q (%v)", text[:max(n, 0)], err)
		}
	}); err != nil {
		m.t.Fatal(err)
	}
}

func TestWhatTheManagerIsTold(t *testing.T) {
	m, notifier := newManager(t, 0)
	for _, tt := range []struct {
		name string
		tell func() error
		want string
	}{
		{"ready", func() error { return notifier.Ready("serving") }, "READY=1\nSTATUS=serving"},
		{"a status", func() error { return notifier.Status("starting") }, "STATUS=starting"},
		{"a status of more than one line cannot be another assignment", func() error { return notifier.Status("a\nREADY=1\r\x1b[2Jb") }, "STATUS=a READY=1 [2Jb"},
		{"stopping", func() error { return notifier.Stopping("ending") }, "STOPPING=1\nSTATUS=ending"},
		{"more time", func() error { return notifier.ExtendTimeout(30 * time.Second) }, "EXTEND_TIMEOUT_USEC=30000000"},
		{"the watchdog", notifier.Ping, "WATCHDOG=1"},
	} {
		if err := tt.tell(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := m.next(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if err := notifier.Status(strings.Repeat("ä", 4000)); err != nil {
		t.Fatal(err)
	}
	if got := m.next(); len(got) > 420 || !strings.HasSuffix(got, "ä…") {
		t.Errorf("a long status is %d bytes: %q", len(got), got)
	}
}

// A reload is told with the time of the monotonic clock, by which systemd tells it from one before.
func TestAReloadIsToldWithItsTime(t *testing.T) {
	m, notifier := newManager(t, 0)
	clock := func() int64 {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			t.Fatal(err)
		}
		return now.Nano() / 1000
	}
	before := clock()
	if err := notifier.Reloading(); err != nil {
		t.Fatal(err)
	}
	first, usec, _ := strings.Cut(m.next(), "\nMONOTONIC_USEC=")
	at, err := strconv.ParseInt(usec, 10, 64)
	if first != "RELOADING=1" || err != nil || at < before || at > clock() {
		t.Errorf("told %q, %q (%v), not between %d and now", first, usec, err, before)
	}
}

func TestNobodyIsToldWhereThereIsNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	notifier, err := systemd.OpenNotifier()
	if notifier != nil || err != nil {
		t.Errorf("got %v, %v", notifier, err)
	}
	if err := errors.Join(notifier.Ready("x"), notifier.Status("x"), notifier.Reloading(), notifier.Stopping("x"), notifier.Ping(), notifier.ExtendTimeout(1)); err != nil || notifier.Watchdog() != 0 {
		t.Errorf("%v, %v", err, notifier.Watchdog())
	}
	systemd.Watchdog{Manager: notifier}.Run(t.Context()) // and returns
}

func TestAManagerThatDoesNotListenIsAnError(t *testing.T) {
	m, notifier := newManager(t, 0)
	if err := m.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := notifier.Ready("x"); err == nil {
		t.Error("nobody was told, and that is no error")
	}
}

func TestAWatchdogOfAnotherProcessIsNotOurs(t *testing.T) {
	newManager(t, time.Minute)
	t.Setenv("WATCHDOG_PID", "1")
	notifier, err := systemd.OpenNotifier()
	if err != nil || notifier.Watchdog() != 0 {
		t.Errorf("%v, %v", notifier.Watchdog(), err)
	}
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("WATCHDOG_USEC", "soon")
	if notifier, err := systemd.OpenNotifier(); err == nil {
		t.Errorf("a time that is none was taken: %v", notifier.Watchdog())
	}
}

// The watchdog is fed twice in its time as long as the check finds nothing, and not fed while it
// does: then the service is looked at again sooner, and fed again when it has recovered.
func TestTheWatchdogIsFedWhileTheCheckFindsNothing(t *testing.T) {
	m, notifier := newManager(t, time.Minute)
	ctx, end := context.WithCancel(t.Context())
	found := []error{nil, nil, errors.New("it stands still"), errors.New("it stands still"), nil}
	var pauses []time.Duration
	looks := 0
	systemd.Watchdog{
		Manager: notifier,
		Check: func(ctx context.Context) error {
			if by, bounded := ctx.Deadline(); !bounded || time.Until(by) > 15*time.Second {
				t.Errorf("the check may take until %v", by)
			}
			looks++
			return found[looks-1]
		},
		Sleep: func(_ context.Context, d time.Duration) error {
			pauses = append(pauses, d)
			if found[looks-1] == nil {
				if got := m.next(); got != "WATCHDOG=1" {
					t.Errorf("look %d: told %q", looks, got)
				}
			}
			m.quiet()
			if looks == len(found) {
				end()
			}
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}.Run(ctx)
	if diff := cmp.Diff([]time.Duration{30 * time.Second, 30 * time.Second, 7500 * time.Millisecond, 7500 * time.Millisecond, 30 * time.Second}, pauses); diff != "" {
		t.Errorf("pauses: -want +got:\n%s", diff)
	}
}
