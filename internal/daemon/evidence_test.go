package daemon_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/internal/keyring"
)

// verifier is a relying party that trusts the simulated platform and nothing of the agent.
func (s *stage) verifier() (attest.TrustAnchors, attest.Policy) {
	s.t.Helper()
	read := func(file string) []byte {
		text, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		return text
	}
	amd, err := attest.ParseAMDRoots(read(s.cfg.Attestation.AMDRoots))
	if err != nil {
		s.t.Fatal(err)
	}
	vtpm, err := attest.ParseVTPMRoots(read(s.cfg.Attestation.VTPMRoots))
	if err != nil {
		s.t.Fatal(err)
	}
	policy := attest.DefaultPolicy()
	for _, digest := range s.cfg.Attestation.IDKeyDigests {
		b, err := hex.DecodeString(digest)
		if err != nil {
			s.t.Fatal(err)
		}
		policy.Launch.IDKeyDigests = append(policy.Launch.IDKeyDigests, b)
	}
	return attest.TrustAnchors{AMD: amd, VTPM: vtpm[:1], VTPMIntermediates: vtpm[1:]}, policy
}

// A relying party believes what the agent's evidence says of its keys, and for its nonce only.
func TestEvidenceConvincesAVerifier(t *testing.T) {
	s := newStage(t)
	keys := s.keyring(s.clock())
	app, err := keys.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "rsa-2048", PCRs: []int{7}})
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Close(); err != nil {
		t.Fatal(err)
	}
	s.cfg.Rules[0].Evidence = true
	s.start()
	if c, err := s.client.Capabilities(t.Context()); err != nil || c.Evidence.Available != nil {
		t.Errorf("%+v, %v", c.Evidence, err)
	}
	anchors, policy := s.verifier()
	challenge := attest.Challenge{Nonce: []byte("a nonce of thirty-two bytes here"), Audience: "https://verifier.example"}
	ask := func(key string) (*attest.Evidence, error) {
		bundle, err := s.client.Evidence(t.Context(), wire.EvidenceRequest{
			Nonce: base64.RawURLEncoding.EncodeToString(challenge.Nonce), Audience: challenge.Audience, Key: key,
		})
		if err != nil {
			return nil, err
		}
		return attest.Parse(bundle)
	}
	for _, key := range []string{"binding", "app"} {
		t.Run(key, func(t *testing.T) {
			made, err := ask(key)
			if err != nil {
				t.Fatal(err)
			}
			asked := policy
			if key == "app" { // it is bound to a PCR, which the verifier knows of
				asked.Key.AnyAuthPolicy = true
			}
			result := attest.Verify(made, challenge, anchors, asked, s.clock()())
			if err := result.Err(); err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKIXPublicKey(result.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(der); (key == "app") != (hex.EncodeToString(sum[:]) == app.PublicKeySHA256) {
				t.Error("it is about another key")
			}
			other := challenge
			other.Audience = "https://other.example"
			if attest.Verify(made, other, anchors, asked, s.clock()()).Verified() {
				t.Error("verified for another audience")
			}
		})
	}
	if c, err := s.client.Capabilities(t.Context()); err != nil || c.Evidence.Available == nil || !*c.Evidence.Available {
		t.Errorf("%+v, %v", c.Evidence, err)
	}
	if _, err := ask("nothing"); !errors.Is(err, client.ErrRefused) {
		t.Errorf("a key of no identity: %v", err)
	}
}

// What is not good enough for the machine itself is not given, and the reason is told.
func TestEvidenceThatTheMachineWouldRefuse(t *testing.T) {
	s := newStage(t)
	s.cfg.Rules[0].Evidence = true
	s.cfg.Attestation.Provider, s.cfg.Attestation.AMDRoots = "none", ""
	s.start()
	_, err := s.client.Evidence(t.Context(), wire.EvidenceRequest{
		Nonce: base64.RawURLEncoding.EncodeToString(make([]byte, 32)), Audience: "a", Key: "binding",
	})
	var failed *client.Error
	if !errors.As(err, &failed) || failed.Problem.Code != wire.CodeNoEvidence || !strings.Contains(failed.Problem.Detail, "snp.chain") {
		t.Errorf("got %v", err)
	}
	if c, err := s.client.Capabilities(t.Context()); err != nil || c.Evidence.Available == nil || *c.Evidence.Available {
		t.Errorf("%+v, %v", c.Evidence, err)
	}
}

// An operator's program gets evidence that convinces the service that it asks, and the agent shows
// the token that it makes to the issuer of certificates.
func TestAnOperatorsProgramAttests(t *testing.T) {
	s := newStage(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "attest")
	token := "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":4102444800}`)) + ".c2lnbmF0dXJl"
	script := "#!/bin/sh\nD=${0%/*}\ncat >$D/bundle\nprintf %s \"$KEYAGENT_ATTESTATION_ENDPOINT\" >$D/endpoint\necho run >>$D/runs\necho " + token + "\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s.cfg.Attestation.Provider, s.cfg.Attestation.Command = "exec", []string{program}
	s.cfg.Attestation.PCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 11}
	s.start()
	// The simulated issuer believes its own service alone.
	if _, err := s.client.Token(t.Context(), client.TokenRequest{Identity: "vm", Resource: resource}); err == nil {
		t.Error("the issuer has believed a token of nobody's")
	}
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	made, err := attest.Parse(read("bundle"))
	if err != nil {
		t.Fatal(err)
	}
	anchors, policy := s.verifier()
	policy.PCRs, policy.EventLog.Require = s.cfg.Attestation.PCRs, true
	challenge := attest.Challenge{Nonce: made.Nonce, Audience: string(read("endpoint"))}
	if err := attest.Verify(made, challenge, anchors, policy, s.clock()()).Err(); err != nil {
		t.Error(err)
	}
	if log := s.log.String(); strings.Contains(log, token) || !strings.Contains(log, "attestation token obtained") {
		t.Errorf("log: %s", log)
	}
}
