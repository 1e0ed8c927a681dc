package imds

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"

	"github.com/keyagent/keyagent/simulator/journal"
)

// isolation is what an attestation token must say of this VM's hardware.
func (s *Server) isolation() string {
	if s.cfg.TDX != nil {
		return "tdxvm"
	}
	return "sevsnpvm"
}

// tdQuote exchanges a TDREPORT for a quote.
func (s *Server) tdQuote(r *http.Request, e *journal.Entry) (any, error) {
	if s.cfg.TDX == nil {
		return notFound(r, e)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes))
	if err != nil {
		return nil, err
	}
	var asked struct {
		Report string `json:"report"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return nil, refuse("the body is not JSON")
	}
	report, err := base64.RawURLEncoding.Strict().DecodeString(asked.Report)
	if err != nil {
		return nil, refuse("report is not base64url without padding")
	}
	quote, err := s.cfg.TDX.Quote(report)
	if err != nil {
		return nil, refuse("%v", err)
	}
	return map[string]string{"quote": base64.RawURLEncoding.EncodeToString(quote)}, nil
}
