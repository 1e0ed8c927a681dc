package auditsink_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/auditsink"
)

// place is a directory that only this process writes to, and the path of the audit file in it.
func place(t *testing.T) (dir, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "audit") // sticky, like /tmp, and on a disk
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir, filepath.Join(dir, "audit.jsonl")
}

func open(t *testing.T, path string) *auditsink.Sink {
	t.Helper()
	sink, err := auditsink.Open(auditsink.Config{To: auditsink.ToFile, File: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	return sink
}

// write writes a record that holds a text, and returns why it was not written.
func write(t *testing.T, sink *auditsink.Sink, text string) error {
	t.Helper()
	var r slog.Record
	r.Message = text
	return sink.Handler().Handle(t.Context(), r)
}

// lines returns the messages of the records in a file.
func lines(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		found = append(found, strings.TrimSuffix(line, "\n"))
	}
	return found
}

func wantLines(t *testing.T, path string, parts ...string) {
	t.Helper()
	got := lines(t, path)
	if len(got) != len(parts) {
		t.Fatalf("%s has %q, want %d lines", path, got, len(parts))
	}
	for i, part := range parts {
		if !strings.Contains(got[i], part) {
			t.Errorf("line %d is %q, want %q in it", i, got[i], part)
		}
	}
}

func TestAFileIsMadeForItsOwnerAlone(t *testing.T) {
	_, path := place(t)
	before := syscall.Umask(0)
	sink := open(t, path)
	syscall.Umask(before)
	if err := write(t, sink, "first"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file has mode %v (%v)", info.Mode(), err)
	}
	wantLines(t, path, `"msg":"first"`)
}

func TestAFileThatWasRotatedIsOpenedAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rotate func(t *testing.T, sink *auditsink.Sink, path string)
		old    []string
	}{
		{"renamed, and nobody says so", func(t *testing.T, _ *auditsink.Sink, path string) {
			rename(t, path, path+".1")
		}, []string{"before"}},
		{"renamed, and another made by the one who rotates", func(t *testing.T, sink *auditsink.Sink, path string) {
			rename(t, path, path+".1")
			if err := os.WriteFile(path, nil, 0o640); err != nil {
				t.Fatal(err)
			}
			sink.Reopen()
		}, []string{"before"}},
		{"copied and truncated", func(t *testing.T, _ *auditsink.Sink, path string) {
			text, _ := os.ReadFile(path)
			if err := errors.Join(os.WriteFile(path+".1", text, 0o600), os.Truncate(path, 0)); err != nil {
				t.Fatal(err)
			}
		}, []string{"before"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, path := place(t)
			sink := open(t, path)
			if err := write(t, sink, "before"); err != nil {
				t.Fatal(err)
			}
			tt.rotate(t, sink, path)
			if err := write(t, sink, "after"); err != nil {
				t.Fatal(err)
			}
			wantLines(t, path, "after")
			wantLines(t, path+".1", tt.old...)
		})
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestAFileThatWasRemovedIsMadeAgain(t *testing.T) {
	dir, path := place(t)
	sink := open(t, path)
	if err := write(t, sink, "before"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := write(t, sink, "lost"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its directory: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := write(t, sink, "after"); err != nil {
		t.Fatal(err)
	}
	wantLines(t, path, "after")
}

// A line of which the disk took a part is never joined with the next, which may be written by
// another process: the one that was started after a power cut.
func TestATornLineEndsBeforeTheNextRecord(t *testing.T) {
	_, path := place(t)
	if err := os.WriteFile(path, []byte("{\"msg\":\"whole\"}\n{\"msg\":\"to"), 0o600); err != nil {
		t.Fatal(err)
	}
	sink := open(t, path)
	for _, text := range []string{"second", "third"} {
		if err := write(t, sink, text); err != nil {
			t.Fatal(err)
		}
	}
	wantLines(t, path, "whole", `{"msg":"to`, "second", "third")
}

// The limit of a file's size stands for a full disk: the kernel takes a part of a
// record, then none.
func TestAFullDiskIsAnErrorOfEachRecordAndSpoilsNone(t *testing.T) {
	_, path := place(t)
	sink := open(t, path)
	if err := write(t, sink, "first"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	end := limitFileSize(t, uint64(info.Size())+5)
	for range 2 {
		if err := write(t, sink, "lost"); !errors.Is(err, unix.EFBIG) {
			t.Errorf("a record without room: %v", err)
		}
	}
	end()
	if err := write(t, sink, "second"); err != nil {
		t.Fatal(err)
	}
	wantLines(t, path, "first", "", "second")
}

// limitFileSize bounds the files of this process until end is called. A write beyond the bound
// fails (EFBIG): the runtime ignores the signal.
func limitFileSize(t *testing.T, limit uint64) (end func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFileThatOthersCouldReadOrReplaceIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, dir, path string)
		want    string
	}{
		{"a directory that others may write to", func(t *testing.T, dir, _ string) { chmod(t, dir, 0o777) }, "lets others write it"},
		{"a directory that a group may write to", func(t *testing.T, dir, _ string) { chmod(t, dir, 0o770) }, "lets others write it"},
		{"a directory of another user", func(t *testing.T, dir, _ string) { give(t, dir) }, "belongs to uid 65534"},
		{"a directory that is not there", func(t *testing.T, dir, _ string) { _ = os.Remove(dir) }, "LogsDirectory="},
		{"a file that others may write", func(t *testing.T, _, path string) { touch(t, path, 0o620) }, "lets others write it"},
		{"a file that everybody may read", func(t *testing.T, _, path string) { touch(t, path, 0o644) }, "lets everybody read"},
		{"a file of another user", func(t *testing.T, _, path string) { touch(t, path, 0o600); give(t, path) }, "belongs to uid 65534"},
		{"a symbolic link", func(t *testing.T, dir, path string) {
			touch(t, filepath.Join(dir, "elsewhere"), 0o600)
			if err := os.Symlink("elsewhere", path); err != nil {
				t.Fatal(err)
			}
		}, "symbolic link"},
		{"a link to a file that is not there", func(t *testing.T, dir, path string) {
			if err := os.Symlink(filepath.Join(dir, "made"), path); err != nil {
				t.Fatal(err)
			}
		}, "symbolic link"},
		{"a FIFO", func(t *testing.T, _, path string) {
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, path := place(t)
			tt.prepare(t, dir, path)
			sink, err := auditsink.Open(auditsink.Config{To: auditsink.ToFile, File: path})
			if err == nil {
				_ = sink.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want …%s…", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "made")); err == nil {
				t.Error("a file was made at the end of a link")
			}
		})
	}
	// The same is found out when a running agent opens its file again.
	dir, path := place(t)
	sink := open(t, path)
	chmod(t, dir, 0o777)
	sink.Reopen()
	if err := write(t, sink, "lost"); err == nil || !strings.Contains(err.Error(), "lets others write it") {
		t.Errorf("got %v", err)
	}
}

// On Ubuntu, /var/log is writable for the group syslog.
func TestADirectoryAboveMayBeWritableForItsGroup(t *testing.T) {
	dir, _ := place(t)
	chmod(t, dir, 0o775)
	below := filepath.Join(dir, "keyagent")
	if err := os.Mkdir(below, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := write(t, open(t, filepath.Join(below, "audit.jsonl")), "first"); err != nil {
		t.Error(err)
	}
	chmod(t, dir, 0o777)
	if _, err := auditsink.Open(auditsink.Config{To: auditsink.ToFile, File: filepath.Join(below, "audit.jsonl")}); err == nil {
		t.Error("below a directory that everybody may write to")
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func touch(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, nil, mode); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
}

func give(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another user needs root")
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
}
