package collect

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/upstream"
)

// thimPath is Trusted Hardware Identity Management's answer to "which certificates belong to this processor".
const thimPath = "/metadata/THIM/amd/certification"

// thimTimeout bounds one request. The service is on the same host.
const thimTimeout = 10 * time.Second

// HostError is a failure of the host's metadata service to hand out the processor's certificates.
type HostError struct {
	Status     int           // HTTP status; 0: no answer
	RetryAfter time.Duration // 0: not said
	Err        error
}

func (e *HostError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("fetching the processor's certificates from the host (THIM): %v", e.Err)
	}
	return fmt.Sprintf("fetching the processor's certificates from the host (THIM): status %d: %v", e.Status, e.Err)
}

// Unwrap returns the cause.
func (e *HostError) Unwrap() error { return e.Err }

// Temporary reports whether the same request may succeed later.
func (e *HostError) Temporary() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status >= 500
}

// Refuses is false: what the metadata service says is no verdict about this machine.
func (e *HostError) Refuses() bool { return false }

// thim fetches from the metadata service.
type thim struct {
	url    string
	client *http.Client
	now    func() time.Time
}

func newTHIM(cfg Config) thim {
	client := cfg.HTTP
	if client == nil {
		// No proxy: the address is link-local, and the answer must come from this host.
		client = &http.Client{Transport: &http.Transport{Proxy: nil}, CheckRedirect: upstream.RefuseRedirects}
	}
	return thim{url: strings.TrimRight(cfg.IMDSEndpoint, "/") + thimPath, client: client, now: cfg.Now}
}

// certificates fetches VCEK, ASK and ARK, in this order, as DER. They are candidates: what they are worth, verification says.
func (t thim) certificates(ctx context.Context) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, thimTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return nil, &HostError{Err: err}
	}
	req.Header.Set("Metadata", "true")
	rsp, err := t.client.Do(req)
	if err != nil {
		return nil, &HostError{Err: upstream.Cause(err)}
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		return nil, &HostError{
			Status:     rsp.StatusCode,
			RetryAfter: upstream.RetryAfter(rsp.Header.Get("Retry-After"), t.now()),
			Err:        errors.New("not the answer of an SEV-SNP host"),
		}
	}
	body, err := upstream.ReadBody(rsp.Body)
	if err != nil {
		return nil, &HostError{Err: err}
	}
	chain, err := parseTHIM(body)
	if err != nil {
		return nil, &HostError{Status: rsp.StatusCode, Err: err}
	}
	return chain, nil
}

// parseTHIM reads the answer: two PEM texts in JSON.
func parseTHIM(body []byte) ([][]byte, error) {
	answer, err := upstream.ParseMembers(body)
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	vcek, err := answer.Text("vcekCert")
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	chain, err := answer.Text("certificateChain")
	if _, missing := errors.AsType[*upstream.MissingError](err); err != nil && !missing { // verifiers have it
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	found, err := attest.ParseCertificates([]byte(vcek + "\n" + chain))
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	const fewest, most = 1, 6
	if len(found) < fewest || len(found) > most {
		return nil, fmt.Errorf("unusable answer: %d certificates", len(found))
	}
	var der [][]byte
	for _, cert := range found {
		if err := certs.CheckKey(cert.PublicKey); err != nil {
			return nil, fmt.Errorf("unusable answer: certificate of %.60q: %w", cert.Subject.CommonName, err)
		}
		der = append(der, cert.Raw)
	}
	return der, nil
}

// addVCEK adds the chain, from the cache if chip and firmware level are the same as last time.
func (c *Collector) addVCEK(ctx context.Context, e *attest.Evidence) error {
	wrapper, err := hcl.Parse(e.HCLReport)
	if err != nil {
		return err
	}
	if wrapper.Type != hcl.TypeSNP {
		return fmt.Errorf("the hardware is %v, which is not supported yet", wrapper.Type)
	}
	report, err := tee.ParseSNPReport(wrapper.Hardware)
	if err != nil {
		return err
	}
	chip := hex.EncodeToString(report.ChipID) + "/" + report.ReportedTCB.String()
	if e.VCEKChain = c.cachedVCEK(chip); e.VCEKChain != nil {
		return nil
	}
	if e.VCEKChain, err = c.thim.certificates(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chain = vcekChain{chip: chip, der: e.VCEKChain}
	return nil
}

func (c *Collector) cachedVCEK(chip string) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chain.chip != chip {
		return nil
	}
	return c.chain.der
}

// forgetVCEK drops the cached chain: with evidence that does not verify it may be what is wrong.
func (c *Collector) forgetVCEK() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chain = vcekChain{}
}
