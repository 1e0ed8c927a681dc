package agentapi_test

import (
	"context"
	"os"
	"testing"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// What obtains a token is told the id that the answer has: one search finds both in the log.
func TestTheSourceIsToldTheIDOfTheRequest(t *testing.T) {
	var told string
	a := start(t, config(func(_ context.Context, r acquire.Request) (acquire.Token, error) {
		told = r.ID
		return goodToken(r), nil
	}, rulesFor(os.Geteuid())))
	got := a.get(t, wire.PathToken+"?identity=shop&resource="+vault)
	if id := got.header.Get(wire.HeaderRequestID); got.status != 200 || id == "" || told != id {
		t.Errorf("told %q, and the answer has %q", told, id)
	}
}
