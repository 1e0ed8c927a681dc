package clients_test

import (
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/simulator"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/fault"
	"github.com/keyagent/keyagent/simulator/imds"
)

// An app as somebody else wrote it gets its token with a credential that is bound to the VM's TPM:
// started by keyagent exec, without a change of its code. It asks once for two calls.
func TestAnUnmodifiedAppGetsATokenUnderExec(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newStation(unchanged)
	own, user, app := s.info.Identities[0], s.info.Identities[1], s.application(federatedApp)
	selectors := map[string]string{byClientID: user.ClientID, byObjectID: user.ObjectID, byResourceID: user.ResourceID}
	for _, u := range unmodifiedApps() {
		t.Run(u.name, func(t *testing.T) {
			t.Run("the VM's own identity", func(t *testing.T) { s.gets(t, u, own.Name, own.ClientID) })
			t.Run("an application", func(t *testing.T) { s.gets(t, u, federatedApp, app.ClientID) })
			for _, by := range u.takes {
				t.Run("a user-assigned identity by "+by, func(t *testing.T) {
					s.gets(t, u, own.Name, user.ClientID, by+"="+selectors[by])
				})
			}
		})
	}
	if n := len(s.Journal().Operation(entra.OpLogin)) + len(s.Journal().Operation(imds.OpToken)); n > 0 {
		t.Errorf("%d tokens were obtained without a bound credential", n)
	}
}

// gets runs an app for the vault.
func (s *station) gets(t *testing.T, u unmodified, identity, want string, selector ...string) {
	t.Helper()
	before := len(s.record.since(0))
	got := says(t, u.command(t, s, identity, nil, append([]string{vault}, selector...)...))
	if got.Error != "" {
		t.Fatal(got.Error)
	}
	if asked := s.record.since(before); len(asked) != 1 || got.Again != got.Token {
		t.Errorf("%d requests for two calls; the same token: %t", len(asked), got.Again == got.Token)
	}
	if caller := s.caller(t, got.Token); caller.ClientID != want || caller.Bound {
		t.Errorf("the resource saw %+v, want %s", caller, want)
	}
	claims := claimsOf(t, got.Token)
	if early := claims.Expires - got.Expires; u.expiry && (early < 0 || early > 60) {
		t.Errorf("the library takes the token to live until %d, and it says %d", got.Expires, claims.Expires)
	}
	half := time.Now().Add(time.Until(time.Unix(claims.Expires, 0)) / 2)
	if got.Refresh != 0 && time.Unix(got.Refresh, 0).Sub(half).Abs() > time.Hour {
		t.Errorf("the library will ask again at %v, and half of the token's life is over at %v", time.Unix(got.Refresh, 0), half)
	}
}

// Some programs can be led to IMDS at another address, and to nothing else. There is no secret
// then: who is calling is known by the owner of the socket alone.
func TestAnUnmodifiedAppFindsIMDSUnderExec(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newStation(unchanged)
	own, user := s.info.Identities[0], s.info.Identities[1]
	const (
		host      = `unset IDENTITY_ENDPOINT IDENTITY_HEADER MSI_ENDPOINT MSI_SECRET; exec "$@"`
		terraform = `ARM_MSI_ENDPOINT=$AZURE_POD_IDENTITY_AUTHORITY_HOST/metadata/identity/oauth2/token exec "$@"`
	)
	scripts := map[string]string{"@azure/identity": host, "msal-node": host, "azure-identity of Python": host, "hashicorp/go-azure-sdk": terraform}
	for _, u := range unmodifiedApps() {
		script, ok := scripts[u.name]
		if !ok {
			continue
		}
		for name, c := range map[string]struct {
			wants []string
			want  string
		}{
			"the VM's own identity": {[]string{vault}, own.ClientID},
			"a user-assigned one":   {[]string{vault, byClientID + "=" + user.ClientID}, user.ClientID},
		} {
			t.Run(u.name+", "+name, func(t *testing.T) {
				before := len(s.record.since(0))
				got := says(t, u.command(t, s, own.Name, []string{"sh", "-c", script, "sh"}, c.wants...))
				if got.Error != "" {
					t.Fatal(got.Error)
				}
				if caller := s.caller(t, got.Token); caller.ClientID != c.want || got.Again != got.Token {
					t.Errorf("the resource saw %+v, want %s; the same token: %t", caller, c.want, got.Again == got.Token)
				}
				for _, e := range s.record.since(before) {
					if e.Route != wire.PathIMDSToken {
						t.Errorf("it asked elsewhere: %+v", e)
					}
				}
			})
		}
	}
}

// A library does not repeat a request that was refused, and its user reads why.
func TestARefusalReachesTheUserOfAnUnmodifiedApp(t *testing.T) {
	t.Parallel()
	w, nobody := newWorld(t), uuid.NewString()
	wrong := []string{"sh", "-c", `IDENTITY_HEADER=wrong MSI_SECRET=wrong exec "$@"`, "sh"}
	for _, u := range unmodifiedApps() {
		t.Run(u.name, func(t *testing.T) {
			u.args(t)                    // it may skip
			s := w.newStation(unchanged) // an agent does not record each of very many refusals
			defer s.stop()
			if len(u.takes) > 0 {
				t.Run("an identity that the VM does not have", func(t *testing.T) {
					s.refuses(t, u.command(t, s, "vm", nil, vault, byClientID+"="+nobody), "identity_not_found", "Identity not found")
				})
			}
			t.Run("a resource that no rule allows", func(t *testing.T) {
				s.refuses(t, u.command(t, s, "vm", nil, "https://graph.microsoft.com"), "not_allowed", "no rule gives the caller this resource")
			})
			t.Run("a wrong secret", func(t *testing.T) {
				s.refuses(t, u.command(t, s, "vm", wrong, vault), "secret_refused", "the secret is not valid")
			})
		})
	}
}

// refuses runs an app and looks for one refusal.
func (s *station) refuses(t *testing.T, cmd *exec.Cmd, code, words string) {
	t.Helper()
	before := len(s.record.since(0))
	got := says(t, cmd)
	if got.Token != "" || got.Error == "" {
		t.Fatalf("token %t, error %q", got.Token != "", got.Error)
	}
	asked := s.record.since(before)
	if len(asked) != 1 {
		t.Errorf("the library asked %d times: it took a refusal for a temporary failure", len(asked))
	}
	for _, e := range asked {
		if e.Code != code || e.UID == nil || *e.UID != uint32(appUser) {
			t.Errorf("the audit has %+v, want %s", e, code)
		}
	}
	if !strings.Contains(got.Error, words) {
		t.Errorf("the user reads %s", got.Error)
	}
}

// A token that has minutes left is asked for anew, as libraries do before it expires; and it is the
// agent that has the next one.
func TestAnUnmodifiedAppRefreshesItsToken(t *testing.T) {
	t.Parallel()
	s := newWorldWith(t, simulator.Config{AccessTokenLife: 4 * time.Minute}).newStation(unchanged)
	for _, u := range unmodifiedApps() {
		if !u.refreshes {
			continue
		}
		t.Run(u.name, func(t *testing.T) {
			before := len(s.record.since(0))
			got := says(t, u.command(t, s, "vm", nil, vault))
			if asked := s.record.since(before); got.Error != "" || got.Again == "" || len(asked) != 2 {
				t.Errorf("%d requests for two calls, error %q", len(asked), got.Error)
			}
		})
	}
}

// Entra throttles one request and is away for the next: the app waits for its token and gets it.
func TestAnUnmodifiedAppOutlivesFailuresOfEntra(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	statuses := []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}
	for _, u := range unmodifiedApps() {
		if u.alike {
			continue
		}
		t.Run(u.name, func(t *testing.T) {
			u.args(t)                    // it may skip
			s := w.newStation(unchanged) // without a token in memory
			defer s.stop()
			w.Faults().Clear()
			statuses := statuses
			if u.patient {
				statuses = statuses[:1]
			}
			for _, status := range statuses {
				f := fault.Fault{Operation: entra.OpToken, Kind: fault.Status, Status: status, Headers: map[string]string{"Retry-After": "1"}, Count: 1}
				if err := w.Faults().Add(f); err != nil {
					t.Fatal(err)
				}
			}
			got := says(t, u.command(t, s, "vm", nil, vault))
			if got.Error != "" || s.caller(t, got.Token).ClientID != s.info.Identities[0].ClientID {
				t.Errorf("got %q", got.Error)
			}
			var answered []int
			for _, e := range s.record.since(0) {
				answered = append(answered, e.Status)
			}
			if want := append(slices.Clone(statuses), http.StatusOK); !slices.Equal(answered, want) {
				t.Errorf("the agent answered %d, want %d", answered, want)
			}
		})
	}
}
