package agentapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// An answer that breaks off ends its connection by a panic of net/http's: it is counted once all
// the same, its end is on record, its connection is given back, and the next call is made.
func TestAnAnswerThatBreaksOffIsCounted(t *testing.T) {
	m := new(counted)
	b := newBridge(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/whole" {
			return
		}
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, func(cfg *agentapi.Config) { cfg.Metrics = m })
	b.resource.Config.ErrorLog = nil

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+wire.PathBridge+"vm/vault.example/half", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Fatalf("%q is taken for the whole answer", got)
	}
	if got := m.last(); len(m.answers) != 1 || got.Decision != "used" || got.Code != "" || got.Endpoint != "socket" {
		t.Errorf("counted %+v", m.answers)
	}
	if got := b.ask(t, http.MethodGet, wire.PathBridge+"vm/vault.example/whole", nil); got.status != http.StatusOK || len(m.answers) != 2 {
		t.Errorf("the next call: %d, counted %+v", got.status, m.answers)
	}
	connections := ""
	for !strings.Contains(connections, "connections 1 ") && t.Context().Err() == nil { // the server closes it a little later
		connections = string(b.get(t, wire.PathMetrics).body)
	}
	b.stop(t)
	if log := b.log.String(); strings.Contains(log, "panic") {
		t.Errorf("log %s", log)
	}
	if audit := b.audit.String(); strings.Count(audit, `"end":"broken"`) != 1 || strings.Count(audit, `"end":"complete"`) != 1 {
		t.Errorf("records %s", audit)
	}
}
