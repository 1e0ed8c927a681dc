package daemon_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/client"
)

// freshToken is a token of the application that no cache gives.
func (c *chaos) freshToken() (client.Token, error) {
	c.advance(8 * 24 * time.Hour)
	return c.client.Token(c.t.Context(), client.TokenRequest{Identity: "app-cert", Resource: resource})
}

// A key that is deleted and made again beside the agent has the same generation number, and is
// another one.
func TestAnApplicationsKeyThatWasMadeAgainIsNoticed(t *testing.T) {
	c := newDuel(t, "")
	keys, other := c.stateFile("keys", "app"), t.TempDir()+"/app"
	if err := os.Rename(keys, other); err != nil { // made beforehand: the simulated TPM has no room for it beside those in use
		t.Fatal(err)
	}
	c.certifyApplication()
	first, err := c.freshToken()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(keys); err != nil {
		t.Fatal(err)
	}
	if _, err := c.freshToken(); err == nil {
		t.Error("got a token though there is no key")
	}
	if err := os.Rename(other, keys); err != nil {
		t.Fatal(err)
	}
	second, err := c.freshToken()
	if err != nil {
		t.Fatal(err)
	}
	if second.Binding.Thumbprint == first.Binding.Thumbprint {
		t.Error("the certificate is the old one")
	}
}

// What cannot be read for a moment may be whole in the next: the key stays where it is, and the
// caller is told to come again.
func TestAnApplicationsKeySurvivesFilesThatCannotBeRead(t *testing.T) {
	c := newDuel(t, "")
	if _, err := c.freshToken(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		file []string
		torn string
	}{
		{"the certificate is torn", []string{"keys", "app", "1.cert.pem"}, "-----BEGIN CERT"},
		{"the key file is torn", []string{"keys", "app", "1.key.pem"}, "-----BEGIN TSS2"},
		{"the generation is torn", []string{"keys", "app", "current"}, ""},
		{"the directory is none", []string{"keys", "app"}, ""},
	} {
		path := c.stateFile(tt.file...)
		err := os.Rename(path, path+".away")
		absent := errors.Is(err, os.ErrNotExist)
		if err != nil && !absent {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(tt.torn), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = c.freshToken()
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Problem.Code != wire.CodeUnavailable {
			t.Errorf("%s: got %v, want %s", tt.name, err, wire.CodeUnavailable)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if !absent {
			err = os.Rename(path+".away", path)
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.freshToken(); err != nil {
			t.Errorf("%s: afterwards got %v", tt.name, err)
		}
	}
	if n := strings.Count(c.log.String(), "key of an application is in use"); n != 1 {
		t.Errorf("the key was loaded %d times", n)
	}
}
