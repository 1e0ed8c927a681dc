package auditsink_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/auditsink"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/internal/writequeue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journald is a socket that reads entries as the protocol's description has it.
type journald struct {
	path string
	conn *net.UnixConn
}

func startJournald(t *testing.T, path string) *journald {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &journald{path, conn}
}

func openJournal(t *testing.T, socket string) *auditsink.Sink {
	t.Helper()
	sink, err := auditsink.Open(auditsink.Config{To: auditsink.ToJournal, Journal: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	return sink
}

// receive returns the fields of the next entry, in their order.
func (j *journald) receive(t *testing.T) (fields [][2]string, asFile bool) {
	t.Helper()
	if err := j.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 1<<20), make([]byte, 1024)
	n, oobn, _, _, err := j.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	entry := buf[:n]
	if oobn > 0 {
		entry, asFile = readSealed(t, oob[:oobn]), true
	}
	return parseEntry(t, entry), asFile
}

// readSealed reads what came as a memory file, which journald takes only if nobody can change it.
func readSealed(t *testing.T, oob []byte) []byte {
	t.Helper()
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	file := os.NewFile(uintptr(fds[0]), "entry")
	defer file.Close()
	const want = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&want != want {
		t.Errorf("seals %#x, %v", seals, err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, info.Size())
	if _, err := file.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return text
}

func parseEntry(t *testing.T, entry []byte) (fields [][2]string) {
	t.Helper()
	for len(entry) > 0 {
		line, rest, _ := bytes.Cut(entry, []byte("\n"))
		if name, value, ok := strings.Cut(string(line), "="); ok {
			fields, entry = append(fields, [2]string{name, value}), rest
			continue
		}
		size := binary.LittleEndian.Uint64(rest)
		value := rest[8 : 8+size]
		if rest[8+size] != '\n' {
			t.Fatalf("no newline after the value of %s", line)
		}
		fields, entry = append(fields, [2]string{string(line), string(value)}), rest[8+size+1:]
	}
	return fields
}

func wantFields(t *testing.T, got [][2]string, want map[string]string) {
	t.Helper()
	found := map[string]string{}
	for _, f := range got {
		if _, twice := found[f[0]]; twice {
			t.Errorf("field %s comes twice", f[0])
		}
		found[f[0]] = f[1]
	}
	for name, value := range want {
		if found[name] != value {
			t.Errorf("%s is %q, want %q", name, found[name], value)
		}
	}
}

func TestARecordIsAnEntryWithFields(t *testing.T) {
	j := startJournald(t, filepath.Join(t.TempDir(), "socket"))
	log := slog.New(openJournal(t, j.path).Handler())
	at := time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)
	log.With("decision", "refused", "uid", 1000).WithGroup("asked").With("type", "bearer").Warn("answer",
		slog.Bool("force_refresh", false), slog.Time("since", at), slog.Group("kinds", slog.Int("not_allowed", 3), slog.String("a.b", "x")))
	fields, asFile := j.receive(t)
	if asFile {
		t.Error("a small entry came as a file")
	}
	wantFields(t, fields, map[string]string{
		"PRIORITY": "4", "SYSLOG_IDENTIFIER": "keyagent-audit", "SYSLOG_FACILITY": "10", "KEYAGENT_EVENT": "answer",
		"KEYAGENT_DECISION": "refused", "KEYAGENT_UID": "1000", "KEYAGENT_ASKED_TYPE": "bearer", "KEYAGENT_ASKED_FORCE_REFRESH": "false",
		"KEYAGENT_ASKED_SINCE": "2026-12-01T01:02:03Z", "KEYAGENT_ASKED_KINDS_NOT_ALLOWED": "3", "KEYAGENT_ASKED_KINDS_A_B": "x",
	})
	var message struct {
		Decision string
		Asked    struct{ Kinds map[string]any }
	}
	if err := json.Unmarshal([]byte(fields[0][1]), &message); fields[0][0] != "MESSAGE" || err != nil || message.Decision != "refused" || len(message.Asked.Kinds) != 2 {
		t.Errorf("the message is %q (%v)", fields[0], err)
	}
}

// A caller chooses what it asks for, and so what is in a record. It must not add a field.
func TestAValueCannotBecomeAField(t *testing.T) {
	j := startJournald(t, filepath.Join(t.TempDir(), "socket"))
	log := slog.New(openJournal(t, j.path).Handler())
	for _, value := range []string{"a\nKEYAGENT_UID=0", "\n", "a=b\n\n_UID=0\n", "\x00\n\x00", strings.Repeat("x", 300) + "\n"} {
		log.Info("answer", "resource", value)
		fields, _ := j.receive(t)
		wantFields(t, fields, map[string]string{"KEYAGENT_RESOURCE": value, "KEYAGENT_UID": "", "_UID": ""})
		if len(fields) != 6 {
			t.Errorf("%q became %d fields: %q", value, len(fields), fields)
		}
	}
}

func FuzzAnEntryHasTheFieldsOfItsRecord(f *testing.F) {
	f.Add("resource", "https://vault.azure.net")
	f.Add("a\nB=c", "x\nKEYAGENT_UID=0\n")
	j, path := (*journald)(nil), filepath.Join(f.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		f.Fatal(err)
	}
	defer conn.Close()
	j = &journald{path, conn}
	sink, err := auditsink.Open(auditsink.Config{To: auditsink.ToJournal, Journal: path})
	if err != nil {
		f.Fatal(err)
	}
	defer sink.Close()
	log := slog.New(sink.Handler())
	f.Fuzz(func(t *testing.T, key, value string) {
		if key == "" {
			return
		}
		log.Info("answer", key, value)
		fields, _ := j.receive(t)
		if last := fields[len(fields)-1]; len(fields) != 6 || !strings.HasPrefix(last[0], "KEYAGENT_") || last[1] != value {
			t.Errorf("%q=%q became %q", key, value, fields)
		}
	})
}

func TestALargeRecordIsASealedFile(t *testing.T) {
	j := startJournald(t, filepath.Join(t.TempDir(), "socket"))
	sink := openJournal(t, j.path)
	large := strings.Repeat("x", 2<<20)
	r := slog.Record{Message: "configuration refused"}
	r.AddAttrs(slog.String("error", large))
	if err := sink.Handler().Handle(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	fields, asFile := j.receive(t)
	if !asFile {
		t.Error("it came as a datagram")
	}
	wantFields(t, fields, map[string]string{"KEYAGENT_ERROR": large})
	if err := write(t, sink, "answer"); err != nil {
		t.Fatal(err)
	}
	fields, _ = j.receive(t)
	wantFields(t, fields, map[string]string{"KEYAGENT_EVENT": "answer"})
}

func TestAJournalThatIsNotThereIsAnErrorOfEachRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if _, err := auditsink.Open(auditsink.Config{To: auditsink.ToJournal, Journal: path}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("at the start: %v", err)
	}
	j := startJournald(t, path)
	sink := openJournal(t, path)
	if err := write(t, sink, "first"); err != nil {
		t.Fatal(err)
	}
	_ = j.conn.Close()
	for range 2 {
		if err := write(t, sink, "lost"); err == nil {
			t.Error("a record without a journal was written")
		}
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	j = startJournald(t, path) // it was started anew
	if err := write(t, sink, "second"); err != nil {
		t.Fatal(err)
	}
	fields, _ := j.receive(t)
	wantFields(t, fields, map[string]string{"KEYAGENT_EVENT": "second"})
}

// A journal that does not read is a record that cannot be written, as a full pipe is; when it reads
// again, what it took before is there.
func TestAJournalThatDoesNotReadStallsTheQueueAndNobodyElse(t *testing.T) {
	j := startJournald(t, filepath.Join(t.TempDir(), "socket"))
	sink := openJournal(t, j.path)
	q := writequeue.New(writequeue.Config{Limit: 10, Patience: 20 * time.Millisecond})
	taken := 0
	for ; ; taken++ {
		if err := q.Do(writequeue.Job{Write: func() error { return write(t, sink, "taken") }, Withdraw: true}); err != nil {
			if !errors.Is(err, writequeue.ErrStalled) {
				t.Errorf("got %v", err)
			}
			break
		}
	}
	for range taken + 1 {
		j.receive(t)
	}
	if !q.Drain(time.Minute) {
		t.Error("the write did not end when the journal read again")
	}
	if err := q.Do(writequeue.Job{Write: func() error { return write(t, sink, "after") }}); err != nil {
		t.Error(err)
	}
	q.Drain(time.Minute)
}

func TestClosingEndsAWriteThatWaits(t *testing.T) {
	j := startJournald(t, filepath.Join(t.TempDir(), "socket"))
	sink := openJournal(t, j.path)
	q := writequeue.New(writequeue.Config{Limit: 1000, Patience: 20 * time.Millisecond})
	for q.Do(writequeue.Job{Write: func() error { return write(t, sink, "taken") }}) == nil {
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	if !q.Drain(time.Minute) {
		t.Error("the write goes on")
	}
}

// journald itself is started in a namespace of its own, where /run is empty.
func TestJournaldTakesOurEntries(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	journalctl := tooltest.Tool(t, "journalctl")
	dir := t.TempDir()
	runJournald(t, dir)
	log := slog.New(openJournal(t, filepath.Join(dir, "socket")).Handler())
	log.Info("answer", "uid", 1000, "resource", "two\nlines", "decision", "issued")
	log.Info("configuration refused", "error", strings.Repeat("x", 1<<20))
	got := readJournal(t, journalctl, dir, 2)
	if e := got[0]; e["KEYAGENT_UID"] != "1000" || e["KEYAGENT_RESOURCE"] != "two\nlines" || e["KEYAGENT_DECISION"] != "issued" || e["PRIORITY"] != "6" || e["SYSLOG_FACILITY"] != "10" {
		t.Errorf("the journal has %v", e)
	}
	if text, _ := got[1]["KEYAGENT_ERROR"].(string); len(text) != 1<<20 {
		t.Errorf("of the large value the journal has %d bytes", len(text))
	}
}

// runJournald starts journald, whose socket and journal are in dir, and waits until it is ready.
func runJournald(t *testing.T, dir string) {
	t.Helper()
	const daemon = "/lib/systemd/systemd-journald"
	if _, err := os.Stat(daemon); err != nil {
		tooltest.Tool(t, "systemd-journald") // which skips or fails
	}
	ready := startJournald(t, filepath.Join(dir, "notify"))
	const script = `mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal &&
mount --bind "$0" /run/systemd/journal && mount --bind "$0" /run/log/journal && exec ` + daemon
	cmd := exec.CommandContext(t.Context(), tooltest.Tool(t, "unshare"), "-m", "/bin/sh", "-c", script, dir)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+ready.path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for {
		fields, _ := ready.receive(t) // a notification has the same form
		if slices.Contains(fields, [2]string{"READY", "1"}) {
			return
		}
	}
}

// readJournal returns our entries in the journal below a directory, once there are n.
func readJournal(t *testing.T, journalctl, dir string, n int) (found []map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, journalctl, "-D", dir, "-t", "keyagent-audit", "-o", "json", "--all", "--follow", "--no-tail")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	decoder := json.NewDecoder(out)
	for len(found) < n {
		var entry map[string]any
		if err := decoder.Decode(&entry); err != nil {
			t.Fatalf("the journal has %d entries: %v", len(found), err)
		}
		found = append(found, entry)
	}
	return found
}
