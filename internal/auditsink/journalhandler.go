package auditsink

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"
)

const (
	// identifier is what "journalctl -t" finds audit records by.
	identifier  = "keyagent-audit"
	fieldPrefix = "KEYAGENT_"
	// facilityAuthpriv is where syslog puts what only administrators may read (RFC 5424, 6.2.1).
	facilityAuthpriv = "10"
)

// journalHandler makes entries of the journal of records.
type journalHandler struct {
	journal *journal
	text    slog.Handler  // writes the record as JSON into line
	line    *bytes.Buffer // shared by all handlers of a journal
	prefix  string        // of the names of fields
	fields  []byte        // of attributes that all records have
}

func newJournalHandler(j *journal) *journalHandler {
	line := new(bytes.Buffer)
	return &journalHandler{journal: j, text: slog.NewJSONHandler(line, nil), line: line, prefix: fieldPrefix}
}

// Enabled implements [slog.Handler].
func (h *journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.text.Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.line.Reset()
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	entry := make([]byte, 0, h.line.Len()+len(h.fields)+512)
	entry = appendField(entry, "MESSAGE", string(bytes.TrimSuffix(h.line.Bytes(), []byte("\n"))))
	entry = appendField(entry, "PRIORITY", priority(r.Level))
	entry = appendField(entry, "SYSLOG_IDENTIFIER", identifier)
	entry = appendField(entry, "SYSLOG_FACILITY", facilityAuthpriv)
	entry = appendField(entry, fieldPrefix+"EVENT", r.Message)
	entry = append(entry, h.fields...)
	r.Attrs(func(a slog.Attr) bool {
		entry = appendAttr(entry, h.prefix, a)
		return true
	})
	return h.journal.send(entry)
}

// WithAttrs implements [slog.Handler]. What it adds is encoded once.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.text = h.text.WithAttrs(attrs)
	with.fields = slices.Clone(h.fields)
	for _, a := range attrs {
		with.fields = appendAttr(with.fields, h.prefix, a)
	}
	return &with
}

// WithGroup implements [slog.Handler].
func (h *journalHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.text = h.text.WithGroup(name)
	if name != "" {
		with.prefix += name + "_"
	}
	return &with
}

func appendAttr(entry []byte, prefix string, a slog.Attr) []byte {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "_"
		}
		for _, member := range value.Group() {
			entry = appendAttr(entry, prefix, member)
		}
		return entry
	}
	if a.Key == "" {
		return entry
	}
	text := value.String()
	if value.Kind() == slog.KindTime {
		text = value.Time().Format(time.RFC3339Nano)
	}
	return appendField(entry, fieldName(prefix, a.Key), text)
}

// priority is the level as syslog numbers it (RFC 5424, 6.2.1).
func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return strconv.Itoa(3)
	case level >= slog.LevelWarn:
		return strconv.Itoa(4)
	case level >= slog.LevelInfo:
		return strconv.Itoa(6)
	}
	return strconv.Itoa(7)
}
