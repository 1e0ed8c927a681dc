package imds

// ParseCertificateRequest lets tests and fuzzing reach the parser. It returns what the request says
// about itself.
func ParseCertificateRequest(der []byte) (string, error) {
	r, err := parseCertificateRequest(der)
	if err != nil {
		return "", err
	}
	return r.tenantID + r.clientID + r.computeUnit, nil
}
