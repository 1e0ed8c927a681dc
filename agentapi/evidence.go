package agentapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// EvidenceSource makes attestation evidence. It must be safe for concurrent use, return when the
// context ends, and fail with [*acquire.Error], of which the kinds Unavailable and Refused say
// whether to ask again.
type EvidenceSource interface {
	Evidence(context.Context, EvidenceRequest) ([]byte, error)
}

// Evidence is what callers need to prove where a key is. The zero value gives nobody anything.
type Evidence struct {
	Source EvidenceSource
	// Keys are the names of the keys that each identity proves itself with, in the order in which
	// it tries them.
	Keys map[string][]string
}

// EvidenceRequest says what evidence is wanted.
type EvidenceRequest struct {
	Nonce         []byte
	Audience      string
	Key           string // name of a key of the agent
	PCRs          []int  // none: the source's choice
	PCRBank       string // sha256, sha384; "": the source's choice
	EventLog      bool
	HardwareFresh bool
}

// Limits of what a caller asks for.
const (
	minNonceBytes    = 16
	maxNonceBytes    = 64
	maxAudienceBytes = 1024
	maxPCR           = 23
)

// How many signatures the evidence of one request counts as.
const (
	// evidenceWork: the TPM makes two, and its memory and PCRs are read in some fifteen commands
	// besides.
	evidenceWork = 10
	// freshWork is for evidence with a hardware report of the moment. The paravisor may take ten
	// seconds for it, and all others who ask for evidence wait meanwhile.
	freshWork = 50
)

// work is how many signatures the request counts as.
func (r EvidenceRequest) work() int {
	if r.HardwareFresh {
		return freshWork
	}
	return evidenceWork
}

// attested is what the audit keeps of evidence.
type attested struct {
	key, audience, nonce string
	given                bool
}

// attrs are in a record as they are known.
func (a *attested) attrs() []slog.Attr {
	var attrs []slog.Attr
	attrs = appendUnlessEmpty(attrs, "key", a.key)
	attrs = appendUnlessEmpty(attrs, "audience", a.audience)
	return appendUnlessEmpty(attrs, "nonce", a.nonce)
}

// evidence answers POST /v1/evidence.
func (s *Server) evidence(r *http.Request, rec *record) (reply, *problem) {
	if _, p := parseQuery(r.URL.RawQuery, nil, refuseUnknown); p != nil {
		return reply{}, p
	}
	granted := rec.rules.Policy.EvidenceIdentities(rec.caller)
	if len(granted) == 0 {
		return reply{}, rec.refusesEvidence(policy.Decision{Reason: policy.ReasonEvidence})
	}
	asked, p := readEvidenceRequest(r.Body)
	if p != nil {
		return reply{}, p
	}
	rec.attested.audience, rec.attested.nonce = clip(asked.Audience, maxAuditedBytes), clip(asked.Nonce, maxAuditedBytes)
	rec.attested.key, rec.identity = clip(asked.Key, maxAuditedBytes), clip(asked.Identity, maxAuditedBytes)
	req, p := evidenceRequest(asked)
	if p != nil {
		return reply{}, p
	}
	if req.Key, p = rec.evidenceKey(asked, granted); p != nil {
		return reply{}, p
	}
	rec.attested.key = req.Key
	return s.attests(r.Context(), rec, req)
}

// attests makes the evidence that the rules allow.
func (s *Server) attests(ctx context.Context, rec *record, req EvidenceRequest) (reply, *problem) {
	source := rec.rules.Evidence.Source
	if source == nil {
		return reply{}, newProblem(wire.CodeNoEvidence, "this agent has no evidence to give")
	}
	standing := rec.rules.Policy.Standing(rec.caller)
	if wait := s.signatures.chargeMany(rec.caller, standing, req.work()); wait > 0 {
		rec.reason = reasonEvidence
		return reply{}, newProblem(wire.CodeThrottled, "uid %d asks for %s", rec.caller.UID, reasonEvidence).retryable(wait)
	}
	rec.patience = s.cfg.RequestTimeout
	ctx, end := withPatience(ctx, rec.patience)
	defer end()
	done, err := s.attesting.take(ctx, accountOf(rec.caller, standing))
	if err != nil {
		return reply{}, s.evidenceProblem(ctx, rec, err)
	}
	defer done()
	bundle, err := source.Evidence(ctx, req)
	if err != nil {
		return reply{}, s.evidenceProblem(ctx, rec, err)
	}
	if len(bundle) == 0 || len(bundle) > wire.MaxEvidenceBytes {
		return reply{}, newProblem(wire.CodeInternal, "the agent made evidence that it must not hand out").
			causedBy(fmt.Errorf("%d bytes", len(bundle)))
	}
	rec.attested.given = true
	return reply{json: bundle, kind: wire.ContentTypeEvidence}, nil
}

// reasonEvidence is the reason in the audit for the refusal of evidence that a rule allows.
const reasonEvidence policy.Reason = "too much attestation evidence"

// readEvidenceRequest reads one JSON object and nothing else. The body is limited by the table
// bodies.
func readEvidenceRequest(body io.Reader) (wire.EvidenceRequest, *problem) {
	var asked wire.EvidenceRequest
	text, err := io.ReadAll(body)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err = dec.Decode(&asked); err == nil {
			if _, err = dec.Token(); errors.Is(err, io.EOF) {
				return asked, nil
			}
			err = errors.New("there is more after the object")
		}
	}
	return asked, newProblem(wire.CodeInvalidParameter, "the body is not one JSON object with nonce and audience, of at most %d bytes: %v",
		wire.MaxEvidenceRequestBytes, err).withField("body")
}

// evidenceRequest checks all that does not depend on the caller.
func evidenceRequest(asked wire.EvidenceRequest) (EvidenceRequest, *problem) {
	req := EvidenceRequest{Audience: asked.Audience, PCRs: asked.PCRs, PCRBank: asked.PCRBank, EventLog: asked.EventLog, HardwareFresh: asked.HardwareFresh}
	invalid := func(field, format string, args ...any) (EvidenceRequest, *problem) {
		return req, newProblem(wire.CodeInvalidParameter, format, args...).withField(field)
	}
	switch {
	case asked.Nonce == "":
		return req, newProblem(wire.CodeMissingParameter, "nonce is required: without it the evidence would prove no freshness").withField("nonce")
	case asked.Audience == "":
		return req, newProblem(wire.CodeMissingParameter, "audience is required: it names the verifier").withField("audience")
	case len(asked.Audience) > maxAudienceBytes || strings.ContainsFunc(asked.Audience, isControl):
		return invalid("audience", "audience is longer than %d bytes, or has control characters", maxAudienceBytes)
	case len(asked.Identity) > maxIdentityBytes:
		return invalid("identity", "the name is longer than %d bytes", maxIdentityBytes)
	case len(asked.Key) > maxIdentityBytes:
		return invalid("key", "the name is longer than %d bytes", maxIdentityBytes)
	case asked.Identity != "" && asked.Key != "":
		return invalid("key", "identity and key exclude each other")
	case !slices.Contains([]string{"", "sha256", "sha384"}, asked.PCRBank):
		return invalid("pcr_bank", "pcr_bank %.20q is neither sha256 nor sha384", asked.PCRBank)
	}
	nonce, err := base64.RawURLEncoding.Strict().DecodeString(asked.Nonce)
	if err != nil || strings.ContainsAny(asked.Nonce, "\r\n") {
		return invalid("nonce", "nonce is not base64url without padding")
	}
	if len(nonce) < minNonceBytes || len(nonce) > maxNonceBytes {
		return invalid("nonce", "nonce has %d bytes, want %d to %d", len(nonce), minNonceBytes, maxNonceBytes)
	}
	req.Nonce = nonce
	for i, pcr := range asked.PCRs {
		if pcr < 0 || pcr > maxPCR || slices.Contains(asked.PCRs[:i], pcr) {
			return invalid("pcrs", "pcrs has %d, which is no PCR (0 to %d) or is there twice", pcr, maxPCR)
		}
	}
	return req, nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// evidenceKey returns the key that a request is about, if the rules allow evidence of it. The
// refusal does not tell whether the key or the identity exists.
func (r *record) evidenceKey(asked wire.EvidenceRequest, granted []string) (key string, p *problem) {
	if asked.Key != "" {
		return asked.Key, r.authoriseKey(asked.Key, granted)
	}
	identity := asked.Identity
	if identity == "" {
		if identity, p = r.onlyKeyOf(granted); p != nil {
			return "", p
		}
	}
	decision := r.rules.Policy.DecideEvidence(r.caller, identity)
	if !decision.Allowed {
		return "", r.refusesEvidence(decision)
	}
	r.decided(decision)
	r.identity = identity
	keys := r.rules.Evidence.Keys[identity]
	if len(keys) == 0 {
		p := newProblem(wire.CodeNoEvidence, "identity %q proves itself without a key of this machine", identity)
		p.Identity = identity
		return "", p
	}
	return keys[0], nil
}

// authoriseKey asks the rules for an identity that uses a key.
func (r *record) authoriseKey(key string, granted []string) *problem {
	for _, identity := range granted {
		if !slices.Contains(r.rules.Evidence.Keys[identity], key) {
			continue
		}
		if decision := r.rules.Policy.DecideEvidence(r.caller, identity); decision.Allowed {
			r.decided(decision)
			r.identity = identity
			return nil
		}
	}
	return r.refusesEvidence(policy.Decision{Reason: policy.ReasonKey})
}

// onlyKeyOf returns the first identity of a list, all of which must prove themselves with the same
// key.
func (r *record) onlyKeyOf(granted []string) (string, *problem) {
	for _, name := range granted {
		if !slices.Equal(first(r.rules.Evidence.Keys[name]), first(r.rules.Evidence.Keys[granted[0]])) {
			return "", ambiguous(granted).withField("identity")
		}
	}
	return granted[0], nil
}

func first(list []string) []string { return list[:min(1, len(list))] }

func (r *record) refusesEvidence(decision policy.Decision) *problem {
	r.decided(decision)
	return newProblem(wire.CodeNotAllowed, "uid %d asks for attestation evidence: %s", r.caller.UID, decision.Reason).
		withHint("ask whoever administers the agent for a rule that gives this user the identity, with evidence: true")
}

// evidenceProblem says in the API's terms why there is no evidence.
func (s *Server) evidenceProblem(ctx context.Context, rec *record, err error) *problem {
	failed, known := errors.AsType[*acquire.Error](err)
	switch {
	case errors.Is(context.Cause(ctx), errStopping):
		return newProblem(wire.CodeUnavailable, "%v", errStopping).retryable(time.Second)
	case ctx.Err() != nil:
		return newProblem(wire.CodeUnavailable, "no evidence within %v", rec.patience).retryable(0).
			withHint("the TPM or the host is slow; keyagent status says what the agent waits for")
	case known && failed.Kind == acquire.KindUnavailable:
		return newProblem(wire.CodeUnavailable, "%v", failed.Err).retryable(failed.RetryAfter).withHint(failed.Hint)
	case known:
		return newProblem(wire.CodeNoEvidence, "%v", failed.Err).withHint(failed.Hint)
	}
	return newProblem(wire.CodeInternal, "the agent failed to make evidence; its log says why").causedBy(err)
}
