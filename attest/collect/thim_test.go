package collect_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/keyagent/keyagent/attest/collect"
)

// roundTrip is an http.RoundTripper in one function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestAHostThatHangsIsGivenUp: the bound is on the request, for the client that is handed in may
// have none.
func TestAHostThatHangsIsGivenUp(t *testing.T) {
	m := newVM(t)
	bounded := false
	m.config.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		_, bounded = r.Context().Deadline()
		return nil, errors.New("no answer")
	})}
	_, err := collect.New(m.config).Collect(t.Context(), challenge())
	var he *collect.HostError
	if !errors.As(err, &he) || !he.Temporary() {
		t.Errorf("error %v, want a temporary HostError", err)
	}
	if !bounded {
		t.Error("the request may take for ever")
	}
}
