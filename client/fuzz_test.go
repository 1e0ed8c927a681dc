package client_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/client"
)

// Whatever answers at the socket: a token is whole or it is an error, and no
// error repeats the reply of a success.
func FuzzReply(f *testing.F) {
	for _, body := range []string{
		`{"access_token":"eyJ0","token_type":"Bearer","expires_on":1790000000}`, `{"access_token":"","expires_on":1}`,
		`{"access_token":{},"expires_on":1}`, `{"access_token":"eyJ0","expires_on":-1}`, `{"access_token":"eyJ0","expires_on":1e400}`,
		`{"code":"not_allowed","detail":"no"}`, `{"code":7}`, `[]`, `null`, ``, `<html>`,
	} {
		f.Add([]byte(body), "application/problem+json", "5")
	}
	f.Add([]byte(`{}`), "application/problem+json; charset=\"", "-1")
	f.Fuzz(func(t *testing.T, body []byte, contentType, retryAfter string) {
		token, err := client.DecodeToken(body)
		if (err == nil) == (token.AccessToken.IsZero() || token.ExpiresOn <= 0) {
			t.Errorf("%q: token %v, %v", body, token, err)
		}
		if err != nil && len(body) > 20 && strings.Contains(err.Error(), string(body)) {
			t.Errorf("%v repeats the reply", err)
		}
		resp := &http.Response{StatusCode: 503, Header: http.Header{"Content-Type": {contentType}, "Retry-After": {retryAfter}}}
		said := client.DecodeError(resp, body)
		if said.Status != 503 || said.RetryAfter < 0 || said.RetryAfter > time.Hour || said.Error() == "" {
			t.Errorf("%q: %+v", body, said)
		}
	})
}
