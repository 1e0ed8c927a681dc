package agentapi

import (
	"errors"
	"net/http"
	"slices"

	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// Programs is how programs that speak a protocol of Azure's SDKs are served on loopback.
type Programs struct {
	// Secrets makes and checks what programs show; nil: no program is given any.
	Secrets *appsecret.Keeper
	// AppService is the URL of the App Service protocol, and IMDS the base URL of that of IMDS; "":
	// it is not served.
	AppService, IMDS string
}

// endpointParams are the parameters of POST /v1/endpoint.
var endpointParams = []string{wire.ParamIdentity, wire.ParamLifetime}

// endpoint answers POST /v1/endpoint: a secret for the caller's own program.
func (s *Server) endpoint(r *http.Request, rec *record) (reply, *problem) {
	params, p := parseQuery(r.URL.RawQuery, endpointParams, refuseUnknown)
	if p != nil {
		return reply{}, p
	}
	if s.cfg.Programs.Secrets == nil || s.cfg.Programs.AppService == "" {
		return reply{}, newProblem(wire.CodeNotConfigured, "programs are not served on loopback").
			withHint("ask whoever administers the agent for endpoints.app_service in its configuration")
	}
	holder, p := rec.holderOf(params)
	if p != nil {
		return reply{}, p
	}
	text, err := s.cfg.Programs.Secrets.Mint(holder)
	if errors.Is(err, appsecret.ErrNoUnit) {
		return reply{}, newProblem(wire.CodeInvalidParameter, "%v", err).withField(wire.ParamLifetime).
			withHint("ask for lifetime=" + wire.LifetimeProcess)
	}
	if err != nil {
		return reply{}, newProblem(wire.CodeInternal, "the agent failed to make a secret; its log says why").causedBy(err)
	}
	return reply{body: &wire.Endpoint{
		Identity: holder.Identity, Secret: wire.NewSecret(text.Reveal()),
		AppService: s.cfg.Programs.AppService, IMDS: s.cfg.Programs.IMDS, Lifetime: lifetimes[holder.Lifetime],
	}}, nil
}

var lifetimes = map[appsecret.Lifetime]string{appsecret.Process: wire.LifetimeProcess, appsecret.Unit: wire.LifetimeUnit}

// holderOf describes the caller for a secret, if the rules give it the identity on loopback, too.
func (r *record) holderOf(params params) (appsecret.Holder, *problem) {
	h := appsecret.Holder{UID: r.caller.UID, CgroupID: r.caller.CgroupID, Identity: params.get(wire.ParamIdentity)}
	switch asked := params.get(wire.ParamLifetime); asked {
	case "", wire.LifetimeProcess:
		process, known := r.caller.ProcessID()
		if !known {
			return h, newProblem(wire.CodeInvalidParameter, "the caller's process has ended, or cannot be seen by the agent").withField(wire.ParamLifetime)
		}
		h.Lifetime, h.Process = appsecret.Process, process
	case wire.LifetimeUnit:
		h.Lifetime = appsecret.Unit
	default:
		return h, newProblem(wire.CodeInvalidParameter, "lifetime is neither %s nor %s", wire.LifetimeProcess, wire.LifetimeUnit).withField(wire.ParamLifetime)
	}
	if h.Identity == "" {
		name, p := r.onlyIdentity()
		if p != nil {
			return h, p
		}
		h.Identity = name
	}
	r.identity = clip(h.Identity, maxAuditedBytes)
	return h, r.servedOnLoopback(h.Identity)
}

// servedOnLoopback refuses a caller that the rules would refuse the identity on loopback, where
// nothing but its user and unit is known.
func (r *record) servedOnLoopback(identity string) *problem {
	policy := r.rules.Policy
	why := "the rules give the identity %q to a group or an executable of this caller, and on loopback neither is known"
	if !slices.Contains(policy.Identities(r.caller), identity) {
		return newProblem(wire.CodeNotAllowed, "no rule gives uid %d the identity %q", r.caller.UID, clip(identity, maxAuditedBytes)).
			withHint("ask whoever administers the agent for a rule that gives this user the identity")
	}
	if r.caller.UID == 0 {
		why = "the rules give the identity %q to root, who on loopback may be root of any container"
	}
	if over := (peer.Caller{UID: r.caller.UID, GID: ^uint32(0), CgroupID: r.caller.CgroupID, Via: peer.ViaTCP}); !slices.Contains(policy.Identities(over), identity) {
		return newProblem(wire.CodeNotAllowed, why, clip(identity, maxAuditedBytes)).
			withHint("ask whoever administers the agent for a rule that names the user or the systemd unit")
	}
	return nil
}
