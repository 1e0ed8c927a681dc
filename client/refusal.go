package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"
)

// Codes by which APIs refuse a bound token, and what a program or its operator does about it.
const (
	// CodeMissingClientCertificate is Key Vault's: the connection has not presented a certificate.
	CodeMissingClientCertificate = "MissingClientCertificate"
	// CodeMtlsMissingClientCertificate is the same of Microsoft Graph.
	CodeMtlsMissingClientCertificate = "MtlsMissingClientCertificate"
	// CodeOtherCertificate: the connection has presented another certificate than the one that the
	// token is bound to.
	CodeOtherCertificate = "MtlsCnfClaimRequestDataValidationFailed"
)

var refusalHints = map[string]string{
	CodeMissingClientCertificate: "Key Vault asks for the certificate by renegotiation: the call needs TLS 1.2, HTTP/1.1 and the header x-ms-tokenboundauth: true, " +
		"over a connection that nothing intercepts; Client.HTTPClient does that for hosts in BoundConfig.Late",
	CodeMtlsMissingClientCertificate: "the connection was made without the certificate, or something on the way has ended TLS: call the API with Client.HTTPClient, " +
		"and leave its host out of proxies that intercept TLS",
	CodeOtherCertificate: "token and connection belong to two certificates: the one was replaced in between, or the program shares connections among identities; " +
		"Client.HTTPClient keeps them together, and a new request is made with the new certificate",
}

// maxRefusalBytes limits how much of a refusal's body is read to find its code.
const maxRefusalBytes = 64 << 10

// RefusalError is that an API has refused a bound token because of the certificate of the
// connection.
type RefusalError struct {
	Code    string // one of CodeMissingClientCertificate, CodeMtlsMissingClientCertificate and CodeOtherCertificate
	Message string // the API's own
	Hint    string // what to do
}

func (e *RefusalError) Error() string {
	return fmt.Sprintf("the API refuses the bound token: %s: %s; %s", e.Code, e.Message, e.Hint)
}

// BoundRefusal explains the answer of an API that misses the certificate of a bound token: it
// returns an [*RefusalError], or nil if the answer says nothing of the kind. The answer can be read
// as before.
func BoundRefusal(resp *http.Response) error {
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden || resp.Body == nil {
		return nil
	}
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = json.Unmarshal(beginOf(resp), &body) // another body has no code
	for code, hint := range refusalHints {
		if body.Error.Code == code || strings.Contains(body.Error.Message, "["+code+"]") {
			return &RefusalError{Code: code, Message: oneLine(body.Error.Message), Hint: hint}
		}
	}
	return nil
}

// beginOf returns the beginning of an answer's body, which can be read from there again.
func beginOf(resp *http.Response) []byte {
	begin, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusalBytes))
	resp.Body = &rereadBody{io.MultiReader(bytes.NewReader(begin), failAfter(err), resp.Body), resp.Body}
	return begin
}

// oneLine makes foreign text fit for an error.
func oneLine(text string) string {
	const limit = 1024
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

// failAfter is a reader that fails with an earlier reader's error.
func failAfter(err error) io.Reader {
	if err == nil {
		return strings.NewReader("")
	}
	return errReader{err}
}

type errReader struct{ error }

func (r errReader) Read([]byte) (int, error) { return 0, r.error }

type rereadBody struct {
	io.Reader
	io.Closer
}
