package auditsink

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/writequeue"
)

// Places of audit records.
const (
	ToStdout  = "stdout"
	ToFile    = "file"
	ToJournal = "journald"
)

// JournalSocket is where journald listens.
const JournalSocket = "/run/systemd/journal/socket"

// Config says where records go. To is required.
type Config struct {
	To      string
	File    string    // absolute path, for ToFile
	Stdout  io.Writer // for ToStdout
	Journal string    // socket, for ToJournal; "": JournalSocket
}

// Sink is an open place of audit records. Its handler is not safe for concurrent use, except for
// WithAttrs and WithGroup; Reopen and Close are.
type Sink struct {
	handler slog.Handler
	place   place
}

// place is what differs between the places.
type place interface {
	reopen()
	Close() error
}

// Open opens the place. Close it when no record is written any more.
func Open(cfg Config) (*Sink, error) {
	switch cfg.To {
	case ToStdout:
		return &Sink{slog.NewJSONHandler(writequeue.NewLines(cfg.Stdout), nil), stdout{}}, nil
	case ToFile:
		f, err := openFile(cfg.File)
		if err != nil {
			return nil, fmt.Errorf("opening the audit file: %w", err)
		}
		return &Sink{slog.NewJSONHandler(f, nil), f}, nil
	case ToJournal:
		j, err := openJournal(cfg.Journal)
		if err != nil {
			return nil, fmt.Errorf("connecting to the journal, where audit records go: %w", err)
		}
		return &Sink{newJournalHandler(j), j}, nil
	}
	return nil, fmt.Errorf("audit records cannot go to %q", cfg.To)
}

// Check reports why [Open] would fail, or nil. It makes nothing, and writes nothing.
func Check(cfg Config) error {
	switch cfg.To {
	case ToFile:
		f := &file{path: cfg.File, flags: openFlags &^ unix.O_CREAT}
		err := f.openLocked()
		if errors.Is(err, errNoFile) {
			return nil // it is made
		}
		return errors.Join(err, f.Close())
	case ToJournal:
		j, err := openJournal(cfg.Journal)
		if err != nil {
			return err
		}
		return j.Close()
	}
	return nil
}

// Handler writes records. An error of its Handle is why the record was not written.
func (s *Sink) Handler() slog.Handler { return s.handler }

// Reopen has the file opened again for the next record. Other places stay as they are.
func (s *Sink) Reopen() { s.place.reopen() }

// Close closes the place. A write that waits for the journal ends with an error.
func (s *Sink) Close() error { return s.place.Close() }

// stdout is the process' own, and nobody else's to open or close.
type stdout struct{}

func (stdout) reopen()      {}
func (stdout) Close() error { return nil }
