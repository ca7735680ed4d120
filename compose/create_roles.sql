-- The image of PostgreSQL runs this once, as its superuser, when it creates the database.
\getenv owner_password OWNER_PASSWORD
\getenv service_password SERVICE_PASSWORD

CREATE ROLE enrollment_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE enrollment_service LOGIN PASSWORD :'service_password';

-- By default every role may connect, and create temporary tables.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
ALTER DATABASE :"DBNAME" OWNER TO enrollment_owner;
GRANT CONNECT ON DATABASE :"DBNAME" TO enrollment_service;

-- Keep rows and parameters out of the log of the server.
ALTER DATABASE :"DBNAME" SET log_error_verbosity = 'terse';
ALTER DATABASE :"DBNAME" SET log_parameter_max_length = 0;
ALTER DATABASE :"DBNAME" SET log_parameter_max_length_on_error = 0;
