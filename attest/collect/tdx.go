package collect

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/upstream"
)

// quotePath is where the paravisor's host exchanges a TDREPORT for a quote.
const quotePath = "/acc/tdquote"

// aDay is how long a quote and collateral are used before new ones are asked for: Intel reviews its
// statements far less often, and a platform's certificate changes when its firmware does.
const aDay = 24 * time.Hour

// TDXConfig says where Intel's collateral comes from.
type TDXConfig struct {
	// Collateral is the source: empty for Intel's own service, [NoCollateral], the https base URL
	// of a cache of it, or the absolute path of a directory, see [ReadCollateral].
	Collateral string
	// CollateralHTTP reaches the service. Nil: the default client, without redirects.
	CollateralHTTP *http.Client
}

// NoCollateral has evidence made without collateral. Verifiers that ask for it refuse that.
const NoCollateral = "none"

// tdxState keeps Intel's collateral.
type tdxState struct {
	mu   sync.Mutex
	last keptCollateral // guarded by mu
}

type keptCollateral struct {
	fmspc      string // of the platforms that it is about
	collateral *tee.TDXCollateral
	asked      time.Time // when it was fetched
	until      time.Time // when the first part of it ends
}

func (s *tdxState) get() keptCollateral {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *tdxState) keep(k keptCollateral) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = k
}

// forget drops the collateral: it may be the reason why evidence does not verify.
func (s *tdxState) forget() { s.keep(keptCollateral{}) }

// tdx is Intel TDX, whose reports only the processor can check: the host makes quotes of them, and
// Intel says which firmware is in order.
func tdx() platform {
	return platform{kind: hcl.TypeTDX, subject: tdxSubject, endorse: endorseTD}
}

// tdxSubject is all that a quote repeats.
func tdxSubject(hardware []byte) (string, error) {
	if _, err := tee.ParseTDReport(hardware); err != nil {
		return "", err
	}
	sum := sha256.Sum256(hardware)
	return hex.EncodeToString(sum[:]), nil
}

// endorseTD gets a quote of the report, compares both, and gets the collateral of the platform that
// the quote names.
func endorseTD(ctx context.Context, c *Collector, hardware []byte) (endorsements, error) {
	raw, err := c.host.quote(ctx, hardware)
	if err != nil {
		return endorsements{}, err
	}
	quote, err := matching(hardware, raw)
	if err != nil {
		return endorsements{}, fmt.Errorf("quote from the host: %w", err)
	}
	now := c.cfg.Now()
	collateral, until, err := c.collateral(ctx, quote, now)
	if err != nil {
		return endorsements{}, err
	}
	return endorsements{
		until: earlier(now.Add(aDay), until),
		add:   func(e *attest.Evidence) { e.TDQuote, e.TDXCollateral = raw, collateral },
	}, nil
}

func earlier(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}

// matching parses the quote and compares it with the report, so that a mix-up on the host is
// reported here and by its cause, not by a remote verifier.
func matching(hardware, raw []byte) (*tee.TDQuote, error) {
	report, err := tee.ParseTDReport(hardware)
	if err != nil {
		return nil, err
	}
	quote, err := tee.ParseTDQuote(raw)
	if err != nil {
		return nil, err
	}
	return quote, report.Matches(quote)
}

// quote exchanges a TDREPORT for a quote.
func (h host) quote(ctx context.Context, report []byte) ([]byte, error) {
	body, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(report)})
	if err != nil {
		return nil, err
	}
	answer, err := h.ask(ctx, question{method: http.MethodPost, path: quotePath, body: body, what: "a TD quote"})
	if err != nil {
		return nil, err
	}
	quote, err := parseQuoteAnswer(answer)
	if err != nil {
		return nil, &HostError{What: "a TD quote", Status: http.StatusOK, Err: fmt.Errorf("unusable answer: %w", err)}
	}
	return quote, nil
}

// parseQuoteAnswer takes base64 of either alphabet, with or without padding: hosts have sent both.
func parseQuoteAnswer(body []byte) ([]byte, error) {
	answer, err := upstream.ParseMembers(body)
	if err != nil {
		return nil, err
	}
	text, err := answer.Text("quote")
	if err != nil {
		return nil, err
	}
	text = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(text, "="))
	quote, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(quote) == 0 || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("quote is not base64")
	}
	return quote, nil
}

// collateral returns what Intel says about the quote's platform, and until when it is valid.
// Collateral fetched in the last day is used again; older collateral only if it is still valid and
// newer cannot be had.
func (c *Collector) collateral(ctx context.Context, quote *tee.TDQuote, now time.Time) (*tee.TDXCollateral, time.Time, error) {
	if c.cfg.Collateral == NoCollateral {
		return nil, time.Time{}, nil
	}
	fmspc, err := fmspcOf(quote)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("quote from the host: %w", err)
	}
	last := c.hardware.tdxState.get()
	valid := last.collateral != nil && last.fmspc == fmspc && now.Before(last.until)
	if valid && now.Before(last.asked.Add(aDay)) {
		return last.collateral, last.until, nil
	}
	next := keptCollateral{fmspc: fmspc, asked: now}
	if next.collateral, err = fetchCollateral(ctx, c.cfg.TDXConfig, fmspc, now); err == nil {
		next.until, err = next.collateral.Until()
	}
	if err != nil && valid {
		c.cfg.Logger.WarnContext(ctx, "Intel's collateral could not be refreshed; the last is used while it is valid", "error", err, "until", last.until)
		return last.collateral, last.until, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	c.hardware.tdxState.keep(next)
	return next.collateral, next.until, nil
}

// fmspcOf reads which kind of platform made the quote, in Intel's spelling.
func fmspcOf(quote *tee.TDQuote) (string, error) {
	chain, err := tee.ParseChain(quote.PCKChain)
	if err != nil {
		return "", err
	}
	pck, err := tee.ParsePCK(chain[0])
	if err != nil {
		return "", err
	}
	return strings.ToUpper(hex.EncodeToString(pck.FMSPC[:])), nil
}

// clientOf returns a client that follows no redirect.
func clientOf(client *http.Client) *http.Client {
	own := http.Client{}
	if client != nil {
		own = *client
	}
	own.CheckRedirect = upstream.RefuseRedirects
	return &own
}
