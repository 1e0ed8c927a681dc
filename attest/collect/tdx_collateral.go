package collect

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/upstream"
)

// Where Intel answers (Intel PCS API, version 4).
const (
	intelPCS       = "https://api.trustedservices.intel.com"
	intelRootCRL   = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
	tcbInfoPath    = "/tdx/certification/v4/tcb?fmspc="
	qeIdentityPath = "/tdx/certification/v4/qe/identity"
	pckCRLPath     = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
	rootCRLPath    = "/sgx/certification/v4/rootcacrl" // of caches; Intel has it on another host
)

// collateralTimeout bounds the requests for one collateral together.
const collateralTimeout = 30 * time.Second

// maxCollateralFile bounds a file of a directory, in bytes.
const maxCollateralFile = 64 << 10

// fetchCollateral gets the collateral for a kind of platform. It is a candidate: only verification
// shows what it proves.
func fetchCollateral(ctx context.Context, cfg TDXConfig, fmspc string, now time.Time) (*tee.TDXCollateral, error) {
	if strings.HasPrefix(cfg.Collateral, "/") {
		return ReadCollateral(cfg.Collateral)
	}
	ctx, cancel := context.WithTimeout(ctx, collateralTimeout)
	defer cancel()
	s := pcs{base: strings.TrimRight(cfg.Collateral, "/"), client: clientOf(cfg.CollateralHTTP), now: now}
	rootCRL := s.base + rootCRLPath
	if s.base == "" {
		s.base, rootCRL = intelPCS, intelRootCRL
	}
	return s.collateral(ctx, fmspc, rootCRL)
}

// pcs is Intel's Provisioning Certification Service, or a cache that speaks as it does.
type pcs struct {
	base   string
	client *http.Client
	now    time.Time
}

func (s pcs) collateral(ctx context.Context, fmspc, rootCRL string) (*tee.TDXCollateral, error) {
	info, err := s.statement(ctx, s.base+tcbInfoPath+fmspc, "tcbInfo", "TCB-Info-Issuer-Chain")
	if err != nil {
		return nil, err
	}
	qe, err := s.statement(ctx, s.base+qeIdentityPath, "enclaveIdentity", "SGX-Enclave-Identity-Issuer-Chain")
	if err != nil {
		return nil, err
	}
	pckCRL, err := s.get(ctx, s.base+pckCRLPath, "SGX-PCK-CRL-Issuer-Chain")
	if err != nil {
		return nil, err
	}
	root, err := s.get(ctx, rootCRL, "")
	if err != nil {
		return nil, err
	}
	return &tee.TDXCollateral{
		TCBInfo: info.signed, TCBInfoSignature: info.signature, TCBInfoChain: info.chain,
		QEIdentity: qe.signed, QEIdentitySignature: qe.signature, QEIdentityChain: qe.chain,
		PCKCRL: unhexed(pckCRL.body), PCKCRLChain: pckCRL.chain, RootCACRL: unhexed(root.body),
	}, nil
}

// pcsAnswer is a body with the chain of its signer.
type pcsAnswer struct {
	body, chain       []byte
	signed, signature []byte // of a body that is a signed document
}

// statement gets a document that is signed as it stands in its member.
func (s pcs) statement(ctx context.Context, address, member, chainHeader string) (pcsAnswer, error) {
	a, err := s.get(ctx, address, chainHeader)
	if err != nil {
		return a, err
	}
	unusable := func(err error) (pcsAnswer, error) {
		return a, s.failed(address, http.StatusOK, fmt.Errorf("unusable answer: %w", err))
	}
	members, err := upstream.ParseMembers(a.body)
	if err != nil {
		return unusable(err)
	}
	if a.signed, err = members.Raw(member); err != nil {
		return unusable(err)
	}
	text, err := members.Text("signature")
	if err != nil {
		return unusable(err)
	}
	if a.signature, err = hex.DecodeString(text); err != nil {
		return unusable(errors.New("the signature is not hexadecimal"))
	}
	return a, nil
}

func (s pcs) get(ctx context.Context, address, chainHeader string) (pcsAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return pcsAnswer{}, s.failed(address, 0, err)
	}
	rsp, err := s.client.Do(req)
	if err != nil {
		return pcsAnswer{}, s.failed(address, 0, upstream.Cause(err))
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		failed := s.failed(address, rsp.StatusCode, errors.New("no collateral for this platform"))
		failed.RetryAfter = upstream.RetryAfter(rsp.Header.Get("Retry-After"), s.now)
		return pcsAnswer{}, failed
	}
	body, err := upstream.ReadBody(rsp.Body)
	if err != nil {
		return pcsAnswer{}, s.failed(address, 0, err)
	}
	a := pcsAnswer{body: body}
	if chainHeader != "" {
		chain, err := url.PathUnescape(rsp.Header.Get(chainHeader))
		if err != nil || chain == "" {
			return a, s.failed(address, rsp.StatusCode, fmt.Errorf("unusable answer: no header %s", chainHeader))
		}
		a.chain = []byte(chain)
	}
	return a, nil
}

func (s pcs) failed(address string, status int, err error) *HostError {
	host := address
	if u, parseErr := url.Parse(address); parseErr == nil {
		host = u.Host
	}
	return &HostError{What: "Intel's collateral", From: host, Status: status, Err: err}
}

// unhexed undoes what some caches do to a revocation list: hexadecimal digits of the DER.
func unhexed(body []byte) []byte {
	der, err := hex.DecodeString(strings.TrimSpace(string(body)))
	if err != nil {
		return body
	}
	return der
}

// ReadCollateral reads collateral from a directory that an operator fills and keeps current. See
// [tee.ReadTDXCollateral] for its files.
func ReadCollateral(dir string) (*tee.TDXCollateral, error) {
	return tee.ReadTDXCollateral(func(name string) ([]byte, error) { return readCollateralFile(filepath.Join(dir, name)) })
}

func readCollateralFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCollateralFile {
		return nil, fmt.Errorf("%s: it is no file, or has more than %d KiB", path, maxCollateralFile>>10)
	}
	return os.ReadFile(path)
}
