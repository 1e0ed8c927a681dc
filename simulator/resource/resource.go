package resource

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyagent/keyagent/simulator/internal/leg"
	"github.com/keyagent/keyagent/simulator/journal"
)

// Leg is the name in journal and faults.
const Leg = "resource"

// clockSkew is how far the token service's clock may be off.
const clockSkew = time.Minute

// Config says whose tokens the resource takes.
type Config struct {
	Audience string // the resource's own URI
	Issuer   string
	Keys     jose.JSONWebKeySet
	Now      func() time.Time // nil means time.Now
	Recorder leg.Recorder
}

// New returns the resource. It answers every path.
func New(cfg Config) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg.Recorder.Handler(Leg, func(w http.ResponseWriter, r *http.Request, e *journal.Entry) {
		caller, err := cfg.caller(r)
		if err != nil {
			e.Error = err.Error()
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="invalid_token", resource=%q`, cfg.Audience))
			leg.WriteJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token", "error_description": err.Error()})
			return
		}
		e.Set("client_id", caller.ClientID)
		leg.WriteJSON(w, http.StatusOK, caller)
	})
}

// Caller is who the resource saw calling.
type Caller struct {
	ClientID   string    `json:"client_id"`
	ObjectID   string    `json:"object_id"`
	TenantID   string    `json:"tenant_id"`
	ResourceID string    `json:"resource_id"` // of the managed identity
	Audience   string    `json:"audience"`
	Expires    time.Time `json:"expires"`
}

// caller verifies the request's token.
func (cfg Config) caller(r *http.Request) (*Caller, error) {
	authorization := r.Header.Values("Authorization")
	if len(authorization) != 1 {
		return nil, errors.New("no Authorization header, or several")
	}
	scheme, token, _ := strings.Cut(authorization[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, fmt.Errorf("authorization scheme %.20q, want Bearer", scheme)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, errors.New("token is not a JWT signed with RS256")
	}
	keys := cfg.Keys.Key(parsed.Headers[0].KeyID)
	if len(keys) != 1 {
		return nil, errors.New("token is signed by an unknown key")
	}
	return cfg.verify(parsed, keys[0])
}

func (cfg Config) verify(token *jwt.JSONWebToken, key jose.JSONWebKey) (*Caller, error) {
	var registered jwt.Claims
	var own struct {
		ClientID   string `json:"appid"`
		ObjectID   string `json:"oid"`
		TenantID   string `json:"tid"`
		ResourceID string `json:"xms_mirid"`
	}
	if err := token.Claims(key.Key, &registered, &own); err != nil {
		return nil, errors.New("token's signature does not verify")
	}
	if registered.Expiry == nil {
		return nil, errors.New("token does not expire")
	}
	expected := jwt.Expected{Issuer: cfg.Issuer, AnyAudience: jwt.Audience{cfg.Audience}, Time: cfg.Now()}
	if err := registered.ValidateWithLeeway(expected, clockSkew); err != nil {
		return nil, fmt.Errorf("token refused: %w", err)
	}
	return &Caller{
		ClientID: own.ClientID, ObjectID: own.ObjectID, TenantID: own.TenantID, ResourceID: own.ResourceID,
		Audience: cfg.Audience, Expires: registered.Expiry.Time(),
	}, nil
}
