DROP FUNCTION renew_epoch;
