package endpoint_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/internal/endpoint"
	"github.com/keyagent/keyagent/simulator/journal"
)

// serve starts a server with one operation, which answers 200 or, for /refuse, 403.
func serve(t *testing.T, faults ...fault.Fault) (*httptest.Server, *journal.Journal) {
	t.Helper()
	rec := endpoint.Recorder{Journal: journal.New(10, time.Now), Faults: fault.NewSet("x")}
	for _, f := range faults {
		if err := rec.Faults.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewUnstartedServer(rec.Handler("x", func(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
		e.Set("who", "me")
		if r.URL.Path == "/refuse" {
			e.Error = "no"
			endpoint.WriteJSON(w, http.StatusForbidden, map[string]string{"error": "no"})
			return
		}
		endpoint.WriteJSON(w, http.StatusOK, "yes")
	}))
	s.Config.ConnContext = endpoint.ConnContext
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, rec.Journal
}

func get(t *testing.T, s *httptest.Server, path string) (int, string, error) {
	t.Helper()
	resp, err := s.Client().Get(s.URL + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestTheHandlerJournalsItsAnswers(t *testing.T) {
	s, j := serve(t)
	for _, path := range []string{"/", "/refuse"} {
		if _, _, err := get(t, s, path); err != nil {
			t.Fatal(err)
		}
	}
	e := j.Entries()
	if len(e) != 2 || e[0].Status != 200 || e[0].Outcome != journal.OK || e[0].TLSVersion != "TLS 1.3" || e[0].Detail["who"] != "me" {
		t.Fatalf("journal: %+v", e)
	}
	if e[1].Status != 403 || e[1].Outcome != journal.Refused || e[1].Path != "/refuse" || e[1].Error != "no" {
		t.Errorf("journal: %+v", e[1])
	}
}

func TestFaultsActInsteadOfTheService(t *testing.T) {
	s, j := serve(t,
		fault.Fault{Operation: "x", Kind: fault.Status, Status: 429, Headers: map[string]string{"Retry-After": "7"}, Count: 1},
		fault.Fault{Operation: "x", Kind: fault.Body, Body: "<html>", Count: 1},
		fault.Fault{Operation: "x", Kind: fault.Reset, Count: 1},
		fault.Fault{Operation: "x", Kind: fault.Delay, Delay: fault.Duration(time.Nanosecond), Count: 1},
	)
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("status fault: %d %v", resp.StatusCode, resp.Header)
	}
	if status, body, err := get(t, s, "/"); status != 200 || body != "<html>" || err != nil {
		t.Errorf("body fault: %d %q %v", status, body, err)
	}
	s.Client().CloseIdleConnections() // a client may repeat a GET whose reused connection is cut
	if _, _, err := get(t, s, "/"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("reset fault: %v", err)
	}
	if status, body, err := get(t, s, "/"); status != 200 || body != "\"yes\"\n" || err != nil {
		t.Errorf("delay fault: %d %q %v", status, body, err)
	}
	var outcomes []journal.Outcome
	for _, e := range j.Entries() {
		outcomes = append(outcomes, e.Outcome)
	}
	if len(outcomes) != 4 || outcomes[2] != journal.Faulted || outcomes[3] != journal.OK {
		t.Errorf("outcomes: %v", outcomes)
	}
}
