package maa

// ParseRequest lets fuzzing reach the parser.
func ParseRequest(body []byte) error {
	info, err := parseRequest(body)
	if err != nil {
		return err
	}
	_, err = info.evidence()
	return err
}
