package token

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/attest/maa"
	"github.com/keyagent/keyagent/internal/secret"
)

// nonceSize is the size of the nonces made here, in bytes.
const nonceSize = 32

// Config says how to get attestation tokens.
type Config struct {
	Collector *collect.Collector
	MAA       *maa.Client
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: nothing is logged
}

// AzureGuest gets tokens from MAA's AzureGuest operation; an endpoint is that of the service. It is
// safe for concurrent use.
type AzureGuest struct {
	cfg Config
	*cache
}

// NewAzureGuest makes a provider. It does no I/O.
func NewAzureGuest(cfg Config) *AzureGuest {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &AzureGuest{cfg: cfg}
	a.cache = newCache(a.attest, cfg.Now)
	return a
}

// attest gets a new token. If the answer was lost on the way, it asks once more, with a new nonce.
func (a *AzureGuest) attest(ctx context.Context, endpoint string) (secret.String, time.Time, error) {
	audience, err := a.cfg.MAA.Endpoint(endpoint)
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	token, expires, err := a.ask(ctx, audience)
	if lost, ok := errors.AsType[*maa.Error](err); ok && lost.Status == 0 && ctx.Err() == nil {
		a.cfg.Logger.WarnContext(ctx, "attestation is asked for again", "error", err)
		token, expires, err = a.ask(ctx, audience)
	}
	return token, expires, err
}

// ask makes a nonce, evidence for it and a key for the answer, and gets a token for them.
func (a *AzureGuest) ask(ctx context.Context, audience string) (secret.String, time.Time, error) {
	challenge := attest.Challenge{Nonce: make([]byte, nonceSize), Audience: audience}
	if _, err := rand.Read(challenge.Nonce); err != nil {
		return secret.String{}, time.Time{}, err
	}
	evidence, err := a.cfg.Collector.CollectFor(ctx, collect.Request{Challenge: challenge, EventLog: true})
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	key, err := a.cfg.Collector.NewTransportKey(ctx)
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	defer key.Close()
	if err := checkTransportKey(evidence, key.Certified()); err != nil {
		return secret.String{}, time.Time{}, err
	}
	token, expires, err := a.cfg.MAA.Attest(ctx, maa.Request{Endpoint: audience, Challenge: challenge, Evidence: evidence, Key: key})
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	if !a.cfg.Now().Before(expires) {
		return secret.String{}, time.Time{}, fmt.Errorf("attesting at %s: the token has expired already, at %s: is this machine's clock right?",
			audience, expires.UTC().Format(time.RFC3339))
	}
	a.cfg.Logger.InfoContext(ctx, "attestation token obtained", "endpoint", audience, "expires", expires)
	return token, expires, nil
}

// checkTransportKey checks, as the service does, the transport key, which is sent besides
// [attest.Evidence]. A refusal by the service counts as its verdict about this machine, so nothing
// may be sent that was altered between the TPM and this process.
func checkTransportKey(e *attest.Evidence, c attest.Certified) error {
	ak, err := attest.ParseAK(e.AKPublic)
	c.PCRs = e.PCRs
	if err == nil {
		err = attest.VerifyTransportKey(ak, c)
	}
	if err != nil {
		return fmt.Errorf("transport key: not sent, since this machine itself would not accept it: %w", err)
	}
	return nil
}
