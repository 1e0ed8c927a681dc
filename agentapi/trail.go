package agentapi

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/writequeue"
)

const (
	// auditPatience is how long an answer waits for its record. It is well below the second or so
	// that a caller notices, and far above what a pipe takes.
	auditPatience = 500 * time.Millisecond
	// maxWaitingRecords is how many records wait for a reader that stalls: about two megabytes.
	maxWaitingRecords = 2048
)

// trail is where audit records go. It is safe for concurrent use.
type trail struct {
	ctx      context.Context // a record outlives the request that it is of
	handler  slog.Handler
	queue    *writequeue.Queue
	quota    *quota
	now      func() time.Time
	required bool
	place    AuditPlace
	last     atomic.Int64 // when a record was written, in nanoseconds since 1970; 0: none was
}

// AuditPlace is where audit records go, for status and hints.
type AuditPlace struct {
	To   string // "stdout", "file" or "journald"; "": that is not known
	File string // path, of a file
}

// newTrail returns the trail of a server.
func newTrail(cfg Config) *trail {
	t := &trail{
		ctx: context.Background(), handler: cfg.Audit.Handler(), quota: newQuota(), now: cfg.Now, required: cfg.AuditRequired,
		place: cfg.AuditPlace,
	}
	t.queue = writequeue.New(writequeue.Config{
		Limit:    maxWaitingRecords,
		Patience: auditPatience,
		TellLost: func(n uint64) error {
			return t.handle(slog.LevelError, "answers without a record: writing it failed", slog.Uint64("count", n))
		},
		Changed: func(err error) {
			if err == nil {
				cfg.Logger.Warn("audit records are written again")
				return
			}
			meanwhile := "tokens are handed out without a record"
			if t.required {
				meanwhile = "tokens are refused"
			}
			cfg.Logger.Error("writing an audit record", "error", err, "meanwhile", meanwhile)
		},
	})
	return t
}

// kept reports whether the handler takes records.
func (t *trail) kept() bool { return t.handler.Enabled(t.ctx, slog.LevelInfo) }

func (t *trail) handle(level slog.Level, message string, attrs ...slog.Attr) error {
	entry := slog.NewRecord(t.now(), level, message, 0)
	entry.AddAttrs(attrs...)
	return t.hand(t.handler, entry)
}

// hand gives a record to a handler, and notes that one was written.
func (t *trail) hand(to slog.Handler, entry slog.Record) error {
	err := to.Handle(t.ctx, entry)
	if err == nil {
		t.last.Store(entry.Time.UnixNano())
	}
	return err
}

// write puts the record of an answer into the trail, through a handler that has its attributes
// besides its ids. It returns nil when it is there, and otherwise within auditPatience why that is
// not known.
func (t *trail) write(to slog.Handler, ids requestIDs, issued bool) error {
	at := t.now()
	return t.queue.Do(writequeue.Job{
		Write: func() error {
			entry := slog.NewRecord(at, slog.LevelInfo, "answer", 0)
			ids.addTo(&entry)
			return t.hand(to, entry)
		},
		Minor:    !issued,
		Withdraw: issued && t.required,
	})
}

// note writes a record that does not belong to an answer, and does not wait. A lost one is counted.
func (t *trail) note(message string, attrs []slog.Attr) {
	if !t.kept() {
		return
	}
	_ = t.queue.Post(writequeue.Job{Write: func() error { return t.handle(slog.LevelInfo, message, attrs...) }})
}

// watch lifts the bounds of the quota again and again until ctx is done.
func (t *trail) watch(ctx context.Context, wait func(context.Context, time.Duration) error) {
	for wait(ctx, quotaWindow) == nil {
		t.lift()
	}
}

// lift ends the window of the quota, and writes down how many answers of it have no record.
func (t *trail) lift() {
	accounts, missing := t.quota.lift()
	for _, account := range accounts {
		untold := missing[account]
		write := func() error {
			err := t.handle(slog.LevelWarn, "answers without a record: there were too many", untold.attrs(account)...)
			if err != nil {
				t.quota.putBack(account, untold)
			}
			return err
		}
		if err := t.queue.Post(writequeue.Job{Write: write}); err != nil {
			t.quota.putBack(account, untold)
		}
	}
}

func (u unwritten) attrs(account uidRange) []slog.Attr {
	whose := slog.Uint64("uid", uint64(account.first))
	if account.first != account.last {
		whose = slog.String("uids", fmt.Sprintf("%d-%d", account.first, account.last))
	}
	kinds := make([]any, 0, len(u.kinds))
	for _, kind := range slices.Sorted(maps.Keys(u.kinds)) {
		kinds = append(kinds, slog.Int64(kind, u.kinds[kind]))
	}
	return []slog.Attr{whose, slog.Int64("count", u.count), slog.Time("since", u.since), slog.Group("kinds", kinds...)}
}

// close writes the records that are left, and waits for auditPatience at most.
func (t *trail) close() {
	t.lift()
	t.queue.Drain(auditPatience)
}

// status returns the state of the audit.
func (t *trail) status() wire.AuditStatus {
	state := t.queue.State()
	status := wire.AuditStatus{To: t.place.To, File: t.place.File, Required: t.required, Written: state.Written, Lost: state.Lost}
	if last := t.last.Load(); last != 0 {
		at := time.Unix(0, last).UTC()
		status.LastWritten = &at
	}
	if state.Fault != nil {
		status.LastError = state.Fault.Error()
	}
	return status
}

// whatToSee is the first place to look at when records cannot be written.
func (p AuditPlace) whatToSee() string {
	switch {
	case p.File != "":
		return "see " + p.File + " and the room on its disk"
	case p.To == "journald":
		return "see systemd-journald.service"
	}
	return "look at the program that reads the agent's standard output"
}
