package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/keyagent/keyagent/attest"
)

// server answers two requests: POST /challenge, and POST /evidence with what the machine made of
// the challenge.
type server struct {
	audience string
	policy   attest.Policy
	anchors  attest.TrustAnchors
	nonces   *nonces
	now      func() time.Time
	log      *slog.Logger
}

// verdict is the answer to evidence.
type verdict struct {
	Verified bool `json:"verified"`
	// Against are the checks for which the evidence is refused.
	Against []attest.Check `json:"against,omitempty"`

	// Of verified evidence: the key that lives in the machine's TPM, and the machine. Rely on the
	// key: only that machine can use it. The VM's id is for people.
	PublicKey string         `json:"public_key,omitempty"` // PEM
	VMID      string         `json:"vm_id,omitempty"`
	Proven    []attest.Claim `json:"proven,omitempty"`
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /challenge", s.challenge)
	mux.HandleFunc("POST /evidence", s.evidence)
	return mux
}

func (s *server) challenge(w http.ResponseWriter, _ *http.Request) {
	nonce, err := s.nonces.issue()
	if err != nil {
		s.log.Error("no nonce", "error", err)
		http.Error(w, "no nonce can be made", http.StatusInternalServerError)
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"nonce": hex.EncodeToString(nonce), "audience": s.audience, "expires_in": int(s.nonces.life.Seconds()),
	})
}

func (s *server) evidence(w http.ResponseWriter, r *http.Request) {
	bundle, err := io.ReadAll(http.MaxBytesReader(w, r.Body, attest.MaxEvidenceSize))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, "more than any evidence has", http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "the evidence could not be read", http.StatusBadRequest)
		return
	}
	v, err := s.verify(bundle)
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "10")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	case !v.Verified:
		answer(w, http.StatusUnprocessableEntity, v)
	default:
		answer(w, http.StatusOK, v)
	}
}

// verify is the whole of a relying party's work. The order matters: the nonce must be one of ours
// before anything is computed, and it is used up only by evidence that holds, so that nobody can
// use up another machine's nonce.
func (s *server) verify(bundle []byte) (*verdict, error) {
	evidence, err := attest.Parse(bundle)
	if err != nil {
		return nil, err
	}
	issued, err := s.nonces.issued(evidence.Nonce)
	if err != nil {
		return nil, err
	}
	challenge := attest.Challenge{Nonce: evidence.Nonce, Audience: s.audience, Issued: issued}
	result := attest.Verify(evidence, challenge, s.anchors, s.policy, s.now())
	if err := result.Err(); err != nil {
		s.log.Info("refused", "error", err)
		return &verdict{Against: against(result)}, nil
	}
	if err := s.nonces.use(evidence.Nonce); err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(result.PublicKey)
	if err != nil {
		return nil, err
	}
	s.log.Info("verified", "vm", result.VMID)
	return &verdict{
		Verified: true, VMID: result.VMID, Proven: result.Proven,
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
	}, nil
}

// against lists the checks that stand against the evidence.
func against(result *attest.Result) []attest.Check {
	required := result.Required()
	var list []attest.Check
	for _, c := range result.Checks {
		if c.Status == attest.Fail || c.Status == attest.NotApplicable && slices.Contains(required, c.Name) {
			list = append(list, c)
		}
	}
	return list
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone does not miss it
}
