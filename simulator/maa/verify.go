package maa

import (
	"errors"
	"net/http"
	"strings"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/journal"
)

// Checks of this service, beside those of package attest.
const (
	checkTransportKey = "transport-key"
	checkNonceUnused  = "nonce.unused"
)

// attest answers one request: the sealed token, or a refusal.
func (s *Server) attest(w http.ResponseWriter, r *http.Request, e *journal.Entry) (string, error) {
	info, err := readRequest(w, r)
	if err != nil {
		return "", err
	}
	evidence, err := info.evidence()
	if err != nil {
		return "", err
	}
	if evidence.TDQuote != nil {
		evidence.TDXCollateral = s.cfg.Collateral
	}
	result, err := s.verify(info, evidence, e)
	if err != nil {
		return "", err
	}
	token, err := s.token(info, evidence, result)
	if err != nil {
		return "", err
	}
	return seal(token, info.TpmInfo.EncKeyPub)
}

// verify verifies the evidence and notes every check in the journal. The service's own checks come
// after the evidence: only good evidence uses up a nonce.
func (s *Server) verify(info *attestationInfo, evidence *attest.Evidence, e *journal.Entry) (*attest.Result, error) {
	challenge := attest.Challenge{Nonce: info.ClientPayload["nonce"], Audience: s.cfg.BaseURL}
	if err := challenge.Validate(); err != nil {
		return nil, malformed("ClientPayload: %v", err)
	}
	result := attest.Verify(evidence, challenge, s.cfg.Anchors, s.policy, s.cfg.Now())
	checks := result.Checks
	err := result.Err()
	if err == nil {
		own := s.ownChecks(result.AK, info)
		checks, err = append(checks, own...), failure(own)
	}
	e.Set("checks", checks)
	e.Set("verdict", result.Verdict())
	e.Set("proven", result.Proven)
	if err != nil {
		return nil, refused(err)
	}
	return result, nil
}

func (s *Server) ownChecks(ak *attest.AK, info *attestationInfo) []attest.Check {
	transport := transportKey(ak, info)
	if transport.Status != attest.Pass {
		return []attest.Check{transport}
	}
	return []attest.Check{transport, s.nonce(info.ClientPayload["nonce"])}
}

// transportKey checks that the key to which the answer will be encrypted lives in the same TPM.
// Clients of this service certify it with empty qualifying data. It needs no nonce: no other key
// opens the answer.
func transportKey(ak *attest.AK, info *attestationInfo) attest.Check {
	err := attest.VerifyTransportKey(ak, attest.Certified{
		Public:    info.TpmInfo.EncKeyPub,
		Attest:    info.TpmInfo.EncKeyCertifyInfo,
		Signature: info.TpmInfo.EncKeyCertifyInfoSignature,
	})
	return outcome(checkTransportKey, err)
}

func (s *Server) nonce(nonce []byte) attest.Check {
	if !s.useNonce(nonce) {
		return outcome(checkNonceUnused, errors.New("stale nonce: it was used before"))
	}
	return outcome(checkNonceUnused, nil)
}

func outcome(name string, err error) attest.Check {
	if err != nil {
		return attest.Check{Name: name, Status: attest.Fail, Reason: strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	return attest.Check{Name: name, Status: attest.Pass}
}

func failure(checks []attest.Check) error {
	var errs []error
	for _, c := range checks {
		if c.Status == attest.Fail {
			errs = append(errs, &attest.CheckError{Check: c.Name, Reason: c.Reason})
		}
	}
	return errors.Join(errs...)
}

// refused makes the answer to evidence that does not hold. It names every check that failed, or
// that was required and did not apply.
func refused(err error) error {
	return &refusal{
		status:  http.StatusBadRequest,
		code:    "PolicyEvaluationError",
		message: strings.ReplaceAll(err.Error(), "\n", "; "),
		failed:  failedChecks(err),
	}
}

// failedChecks collects the check errors in the tree of err.
func failedChecks(err error) []attest.Check {
	switch e := err.(type) { //nolint:errorlint // it descends the tree itself
	case *attest.CheckError:
		return []attest.Check{{Name: e.Check, Status: attest.Fail, Reason: e.Reason}}
	case interface{ Unwrap() error }:
		return failedChecks(e.Unwrap())
	case interface{ Unwrap() []error }:
		var all []attest.Check
		for _, inner := range e.Unwrap() {
			all = append(all, failedChecks(inner)...)
		}
		return all
	}
	return nil
}
