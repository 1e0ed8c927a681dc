package journal_test

import (
	"testing"
	"time"

	"github.com/keyagent/keyagent/simulator/journal"
)

func TestJournalKeepsTheLastEntriesAndTheirNumbers(t *testing.T) {
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	j := journal.New(2, func() time.Time { return at })
	for _, operation := range []string{"a", "b", "a"} {
		j.Add(journal.Entry{Operation: operation})
	}
	entries := j.Entries()
	if len(entries) != 2 || entries[0].Seq != 2 || entries[1].Seq != 3 || !entries[0].Time.Equal(at) {
		t.Errorf("entries: %+v", entries)
	}
	if a := j.Operation("a"); len(a) != 1 || a[0].Seq != 3 {
		t.Errorf("operation a: %+v", a)
	}
}
