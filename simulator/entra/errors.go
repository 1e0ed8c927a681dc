package entra

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// refusal is an error answer (RFC 6749, 5.2).
type refusal struct {
	status      int
	oauth       string // member "error"
	code        int    // AADSTS
	description string
}

func refuse(status int, oauth string, code int, format string, args ...any) error {
	return &refusal{status, oauth, code, fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s: AADSTS%d: %s", r.oauth, r.code, r.description)
}

func asRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	return &refusal{http.StatusInternalServerError, "server_error", 90033, err.Error()}
}

// errorBody is the error answer as Entra writes it.
type errorBody struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
	URI           string `json:"error_uri"`
}

// body is r as an answer to the request with these ids; a client that sent none gets one.
func (r *refusal) body(now time.Time, traceID, correlationID string) errorBody {
	if uuid.Validate(correlationID) != nil {
		correlationID = uuid.NewString()
	}
	timestamp := now.UTC().Format("2006-01-02 15:04:05Z")
	return errorBody{
		Error: r.oauth,
		Description: fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
			r.code, r.description, traceID, correlationID, timestamp),
		Codes:         []int{r.code},
		Timestamp:     timestamp,
		TraceID:       traceID,
		CorrelationID: correlationID,
		URI:           fmt.Sprintf("https://login.microsoftonline.com/error?code=%d", r.code),
	}
}
