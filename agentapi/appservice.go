package agentapi

import (
	"errors"
	"net"
	"net/http"
	"sync"

	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// appServiceForm is GET /msi/token.
var appServiceForm = sdkProtocol{checkAppServiceVersion, (*record).holders}.form()

// appServiceRoutes is every request that the agent answers as Azure's App Service does.
var appServiceRoutes = []route{
	{http.MethodGet, wire.PathAppServiceToken, withoutExtraSlashes, loopbackErrors.format, forCallersOfRules, programSecret, appServiceForm.issue},
}

// AppService is the protocol of Azure's App Service on loopback, for programs that have a secret
// from [wire.PathEndpoint]. Identify names the owner of the socket at the other end; it must not
// block. A request takes both, the owner and the secret.
func AppService(ln net.Listener, identify Identify) Way {
	return loopback(&face{
		listener: ln, identify: identify, routes: appServiceRoutes, errors: loopbackErrors.format,
		name: "app-service", about: "tokens are at GET " + wire.PathAppServiceToken,
	})
}

// checkAppServiceVersion refuses a version that the agent does not speak.
func checkAppServiceVersion(version string) *problem {
	if version == wire.AppServiceAPIVersion || version == wire.AppServiceAPIVersionOld {
		return nil
	}
	return newProblem(wire.CodeInvalidParameter, "api-version must be %s or %s", wire.AppServiceAPIVersion, wire.AppServiceAPIVersionOld)
}

// holders returns the identity that the program's secret names.
func (r *record) holders() (string, *problem) {
	if r.holder == "" {
		return "", newProblem(wire.CodeSecretRefused, "no secret names an identity")
	}
	return r.holder, nil
}

// Reasons in the audit for the refusal of a program by its secret.
const (
	reasonNoSecret      policy.Reason = "the request has no secret"
	reasonUnknownSecret policy.Reason = "the secret is not one that this agent has made since the machine was started"
	reasonOthersSecret  policy.Reason = "the secret was given to another user"
	reasonUnitsSecret   policy.Reason = "the secret was given in another systemd unit or cgroup"
	reasonEndedSecret   policy.Reason = "the process that the secret was given to has ended"
)

// programSecret is the proof that a request comes from a program that was given a secret: one
// header with it, which either version of the protocol may use.
func programSecret(s *Server, r *http.Request, rec *record) *problem {
	given := append(r.Header.Values(wire.HeaderIdentity), r.Header.Values(wire.HeaderSecret)...)
	if len(given) != 1 || given[0] == "" {
		rec.reason, rec.rule = reasonNoSecret, ""
		return newProblem(wire.CodeSecretRefused, "one header %s (api-version %s) or %s (%s) must have the program's secret",
			wire.HeaderIdentity, wire.AppServiceAPIVersion, wire.HeaderSecret, wire.AppServiceAPIVersionOld).withField(wire.HeaderIdentity)
	}
	identity, err := rec.conn.program.check(s.cfg.Programs.Secrets, given[0], appsecret.Presenter{UID: rec.caller.UID, CgroupID: rec.caller.CgroupID})
	if err == nil {
		rec.holder = identity
		return nil
	}
	rec.rule = "" // of a request like this one that was allowed
	switch {
	case errors.Is(err, appsecret.ErrUser):
		rec.reason = reasonOthersSecret
	case errors.Is(err, appsecret.ErrUnit):
		rec.reason = reasonUnitsSecret
	case errors.Is(err, appsecret.ErrEnded):
		rec.reason = reasonEndedSecret
	default:
		rec.reason = reasonUnknownSecret
	}
	// A thief of a secret must not learn which of these it is.
	return newProblem(wire.CodeSecretRefused, "the secret is not valid, or not for this program").withField(wire.HeaderIdentity).
		withHint("each program gets its own from the agent, for as long as it runs and for its user and unit only; start it again to get another")
}

// shownSecret is the secret that was shown last on a connection, so that the next request with it
// costs little. It is safe for concurrent use; nil keeps none.
type shownSecret struct {
	mu     sync.Mutex
	shown  *appsecret.Shown // nil: none yet
	closed bool             // the connection is
}

// check returns the identity that a secret names, or why it is not taken.
func (k *shownSecret) check(secrets *appsecret.Keeper, text string, by appsecret.Presenter) (string, error) {
	if secrets == nil {
		return "", appsecret.ErrUnknown
	}
	if k == nil {
		return secrets.Check(text, by)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shown == nil || !k.shown.Is(text) {
		shown, err := secrets.Open(text)
		if err != nil {
			return "", err
		}
		k.forgetLocked()
		if k.shown = shown; k.closed {
			k.forgetLocked()
			return "", appsecret.ErrUnknown
		}
	}
	return k.shown.Check(by)
}

// close is the end of the connection.
func (k *shownSecret) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.forgetLocked()
}

func (k *shownSecret) forgetLocked() {
	if k.shown != nil {
		_ = k.shown.Close()
		k.shown = nil
	}
}
