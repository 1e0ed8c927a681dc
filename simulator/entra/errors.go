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

// refuseCode is refuse for a code that the platform's user chose, with the error that Entra gives
// with it.
func refuseCode(code int, description string) error {
	switch code {
	case codeNotEnabled:
		return refuse(http.StatusPreconditionFailed, "invalid_request", code, "%s", description)
	case 500181, 1000901, 392196, 3921996, codeOnlyTrusted:
		return refuse(http.StatusBadRequest, "invalid_request", code, "%s", description)
	case 700016:
		return refuse(http.StatusBadRequest, "unauthorized_client", code, "%s", description)
	}
	return refuse(http.StatusUnauthorized, "invalid_client", code, "%s", description)
}

// noCredential is the refusal of a request without a credential, or with a part of one.
func noCredential() error {
	return refuse(http.StatusUnauthorized, "invalid_client", 7000218,
		"The request body must contain the following parameter: 'client_assertion' or 'client_secret'. The client certificate, if there was one, was not enough.")
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
