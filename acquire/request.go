package acquire

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/acquire/entra"
)

// Token returns a token for req, of the identities that are in force now; see [Roster.Token].
func (a *Acquirer) Token(ctx context.Context, req Request) (Token, error) {
	return a.roster.Load().Token(ctx, req)
}

// Token returns a token for req, from the cache or from Entra. It blocks until there is one, all
// credentials have failed, or ctx ends; the flight that it started goes on for other callers.
// Errors are [*Error], or the error of ctx.
func (r *Roster) Token(ctx context.Context, req Request) (Token, error) {
	id, ok := r.byName[req.Identity]
	if !ok {
		return Token{}, noSuchIdentity(req.Identity)
	}
	return r.acquirer.token(ctx, id, req)
}

func noSuchIdentity(name string) *Error {
	return &Error{Kind: KindUnknownIdentity, Identity: name, Err: errors.New("no such identity is configured")}
}

// token answers a request from the cache, or else joins or starts the flight that obtains the
// token, and waits for it.
func (a *Acquirer) token(ctx context.Context, id *identityState, req Request) (Token, error) {
	f := flightFor(id, req)
	now := a.cfg.Now()
	if !f.forceRefresh {
		token, state := a.look(f.key, now)
		if state == cacheDue {
			a.refresh(id, f.key, f.account, f.request) //nolint:contextcheck // no caller waits for a refresh ahead of need
		}
		if state != cacheMiss {
			return token, nil
		}
	}
	var err error
	if f.claims, err = entra.MergeClaims(req.Capabilities, req.Claims); err != nil {
		return Token{}, &Error{Kind: KindRefused, Identity: req.Identity, Err: err} // a fault of this request alone: not remembered
	}
	if err := a.permit(f, now); err != nil {
		return Token{}, err
	}
	call, err := a.fly(f) //nolint:contextcheck // a flight outlives its callers
	if err != nil {
		return Token{}, err
	}
	return call.Wait(ctx)
}

// CheckClaims reports why [Request.Claims] could not be passed on to Entra, or nil.
func CheckClaims(claims string) error {
	_, err := entra.MergeClaims(nil, claims)
	return err
}

// flightFor is the flight that would answer a request, without its claims: they are merged only
// where a flight is needed.
func flightFor(id *identityState, req Request) flight {
	return flight{
		id: id, key: keyOf(id, req), account: req.Account, request: req.ID,
		forceRefresh: req.ForceRefresh || req.Claims != "", challenged: req.Claims != "",
	}
}

// keyOf is the cache key of the token that a request asks for.
func keyOf(id *identityState, req Request) cacheKey {
	// "https://x/" and "https://x" may come back as two audiences, and so are two tokens.
	key := cacheKey{identity: id.Name, resource: req.Resource, tokenType: cmp.Or(req.Type, TypeBearer), meaning: id.meaning}
	if len(req.Capabilities) > 0 {
		sorted := slices.Clone(req.Capabilities)
		slices.Sort(sorted)
		key.capabilities = strings.Join(slices.Compact(sorted), ",")
	}
	return key
}
