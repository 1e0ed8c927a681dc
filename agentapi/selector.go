package agentapi

import (
	"context"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// selectors are the ways to name an identity in the protocols of SDKs. All are known to each of
// them: to ignore one would silently mean another identity.
var selectors = []struct {
	param string
	of    func(Identity) string
}{
	{wire.ParamClientID, func(id Identity) string { return id.ClientID }},
	{wire.ParamObjectID, func(id Identity) string { return id.ObjectID }},
	{wire.ParamResourceID, func(id Identity) string { return id.ResourceID }},
	{wire.ParamResourceIDAlias, func(id Identity) string { return id.ResourceID }},
	{wire.ParamPrincipalID, func(id Identity) string { return id.ObjectID }},
	{wire.ParamClientIDOld, func(id Identity) string { return id.ClientID }},
}

// selection is how a request of an SDK names an identity. The zero value names none.
type selection struct {
	param, value string
	of           func(Identity) string // the id that is compared
}

// String returns the selection as the request has it.
func (w selection) String() string { return w.param + "=" + w.value }

// matches compares without regard to case, as Azure does everywhere.
func (w selection) matches(id Identity) bool { return strings.EqualFold(w.of(id), w.value) }

// selectionOf returns the one selector that was given.
func selectionOf(params params) (selection, *problem) {
	var found selection
	for _, selector := range selectors {
		value := params.get(selector.param)
		if value == "" {
			continue
		}
		if found.of != nil {
			return selection{}, newProblem(wire.CodeInvalidParameter, "more than one of client_id, object_id and msi_res_id").withField(selector.param)
		}
		found = selection{selector.param, value, selector.of}
	}
	return found, nil
}

// selected returns the name of the identity that a request means, out of those that rules give the
// caller. The answer is the same for an identity that the rules do not give and for one that does
// not exist. An id of the configuration goes before one that was learnt, so that a learnt id
// changes nothing that worked before.
func (s *Server) selected(ctx context.Context, rec *record, req tokenRequest) (string, *problem) {
	names := rec.granted(req.selection.matches)
	switch len(names) {
	case 0:
		return s.learntMatch(ctx, rec, req)
	case 1:
		return names[0], nil
	}
	return "", ambiguous(names).withHint("ask for one of them with GET " + wire.PathToken)
}

// granted returns the configured identities that rules give the caller and that suit, in the order
// of the configuration.
func (r *record) granted(suits func(Identity) bool) []string {
	given := r.rules.Policy.Identities(r.caller)
	var names []string
	for _, id := range r.rules.Identities {
		if slices.Contains(given, id.Name) && suits(id) {
			names = append(names, id.Name)
		}
	}
	return names
}

// unnamed returns the identity that a request without a selector means: the VM's own if rules give
// it to the caller, as for IMDS, else the only one that they give.
func (r *record) unnamed() (string, *problem) {
	own := r.granted(Identity.isSystemAssigned)
	switch len(own) {
	case 0:
		name, p := r.onlyIdentity()
		if p != nil {
			p.withHint("name one of them by " + wire.ParamClientID + " or " + wire.ParamResourceID)
		}
		return name, p
	case 1:
		return own[0], nil
	}
	return "", ambiguous(own).withHint("ask for one of them with GET " + wire.PathToken)
}

// isSystemAssigned reports whether this is the VM's own identity: the managed identity without an
// id in the configuration.
func (id Identity) isSystemAssigned() bool {
	return id.Kind == wire.KindManagedIdentity && id.ClientID == "" && id.ObjectID == "" && id.ResourceID == ""
}

// learntMatch returns the first identity, in the order of the configuration, whose learnt id is the
// one that is asked for. The id of a managed identity of which nothing is known is learnt now.
func (s *Server) learntMatch(ctx context.Context, rec *record, req tokenRequest) (string, *problem) {
	var failed *problem
	unset := func(id Identity) bool { return req.selection.of(id) == "" } // else the configuration has decided
	for _, name := range rec.granted(unset) {
		known := s.learnt.of(name)
		if req.selection.of(known) == "" {
			var p *problem
			if known, p = s.enquire(ctx, rec, req, name); p != nil && (failed == nil || failed.RetryAfter == 0) {
				failed = p
			}
		}
		if req.selection.matches(known) {
			return name, nil
		}
	}
	if failed != nil {
		return "", failed // one that could not be looked at may be the one
	}
	return "", notFound()
}

func notFound() *problem { return newProblem(wire.CodeIdentityNotFound, "Identity not found") }

// enquire learns the ids of a managed identity from a token for what the caller asks, if rules give
// the caller that token. A problem is why there is none.
func (s *Server) enquire(ctx context.Context, rec *record, req tokenRequest, name string) (Identity, *problem) {
	req.Identity, req.selection = name, selection{}
	if rec.identityNamed(name).Kind != wire.KindManagedIdentity || !rec.rules.Policy.Decide(rec.caller, req.Request).Allowed {
		return Identity{}, nil
	}
	_, p := s.fetch(ctx, rec, req)
	if p == nil {
		return s.learnt.of(name), nil
	}
	if p.cause != nil { // a fault of the agent, which says nothing of the identity
		s.cfg.Logger.ErrorContext(ctx, "learning the ids of an identity", "request_id", rec.ids.own, "identity", name, "error", p.cause)
		return Identity{}, nil
	}
	return Identity{}, p
}

func (r *record) identityNamed(name string) Identity {
	i := slices.IndexFunc(r.rules.Identities, func(id Identity) bool { return id.Name == name })
	if i < 0 {
		return Identity{}
	}
	return r.rules.Identities[i]
}
